"""What the tests' own conftest does to the environment."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest
from forked import run_forked


def load_conftest(home: str, cache: str) -> None:
    os.environ |= {"HOME": home, "TRITON_CACHE_DIR": cache}
    runpy.run_path(str(Path(__file__).parent / "conftest.py"))
    from triton import knobs

    print(knobs.cache.dir, os.environ["HOME"], sep="\n")


@pytest.mark.slow
def test_triton_keeps_the_cache_that_was_exported_though_home_moves(tmp_path) -> None:
    done = run_forked(load_conftest, str(tmp_path), str(tmp_path / "cache"))
    assert done.exitcode == 0, done.said
    cache, home = done.said.splitlines()
    assert cache == str(tmp_path / "cache")
    assert home != str(tmp_path)
