"""What the tests' own conftest does to the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, runpy
conftest = runpy.run_path("conftest.py")
from triton import knobs
print(knobs.cache.dir, os.environ["HOME"], sep="\\n")
"""


def test_triton_keeps_the_cache_that_was_exported_though_home_moves(tmp_path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True
    )
    cache, home = done.stdout.splitlines()
    assert cache == str(tmp_path / "cache")
    assert home != str(tmp_path)
