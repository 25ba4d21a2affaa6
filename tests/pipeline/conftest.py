"""A finished pipeline, and copies of it that a test may change."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from forked import PRELOADED
from pipeline_cases import stages_done, toy_config, write_toy_data


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the data and, in `run`, of the pipeline; to be read only."""
    place = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(place):
        write_toy_data()
        stages_done(toy_config())
    return place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def copied(place: Path, finished: Path) -> Path:
    """The finished pipeline as the working folder."""
    shutil.copytree(finished, place, dirs_exist_ok=True)
    return place


@pytest.fixture(scope="session")
def processes() -> Iterator[ForkServerContext]:
    """Processes that find everything imported, so that each starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    yield context
