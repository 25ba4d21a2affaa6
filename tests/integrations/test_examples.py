"""The examples run as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from forked import HANG

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("processes", [1, 2])
def test_an_example_learns_in_one_process_and_in_two(example, processes) -> None:
    if example.stem == "lightning_loop":
        pytest.importorskip("lightning")
        if processes == 2:
            pytest.skip("its Trainer is told to use one device")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes == 2 else []
    job = subprocess.run([sys.executable, *launch, str(example)], capture_output=True, text=True, timeout=HANG)
    assert job.returncode == 0, job.stderr
    losses = [float(line) for line in job.stdout.split()]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < losses[0] / 2


def test_each_example_is_short() -> None:
    assert EXAMPLES
    for example in EXAMPLES:
        assert len(example.read_text().splitlines()) < 40, f"{example.name} is too long to read at a glance"
