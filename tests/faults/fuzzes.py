"""The long forms of the fuzzes of this folder, counted for the table of the suite."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import table
from verdicts import Verdict

HERE = Path(__file__).parent
FILES = {
    "data": "test_data_fuzz.py",
    "configuration": "test_configuration_fuzz.py",
    "operators": "test_operator_fuzz.py",
}


def tried(kind: str, workers: int) -> table.Record:
    """The record of one fuzz in its long form; an example that fails is a fault, told by pytest."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = Path(folder) / "tally.txt"
        tally.touch()
        environment = os.environ | {"IWPO_FAULTS": "long", "IWPO_FAULTS_TALLY": str(tally)}
        spread = ["-n", str(workers), "--dist", "load"] if workers > 1 else ["-n", "0"]
        words = ["-q", "-p", "no:cacheprovider", *spread, str(HERE / FILES[kind])]
        done = subprocess.run([sys.executable, "-m", "pytest", *words], env=environment, capture_output=True, text=True)
        held = Counter(tally.read_text().splitlines())
    print(done.stdout[-3000:], flush=True)
    outcomes = {}
    if done.returncode:
        outcomes["one"] = {"verdict": str(Verdict.DIFFERENT), "what": FILES[kind], "more": done.stdout[-9000:]}
    return {
        "how": f"hypothesis, `{FILES[kind]}`",
        "seed": "fixed",
        "held": dict(held),
        "outcomes": outcomes,
        "seconds": time.monotonic() - began,
    }
