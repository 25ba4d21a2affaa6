"""Votes, and a training on types of annotators in a folder of the test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from annotator_votes import write_votes
from training_on_types import config_in

from iwpo_fast.config import TrainConfig


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    return write_votes(tmp_path / "votes.jsonl")


@pytest.fixture
def config(tmp_path: Path, votes: Path) -> Callable[..., TrainConfig]:
    return partial(config_in, tmp_path, votes)
