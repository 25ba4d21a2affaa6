"""The main job on real preferences, shortened: Anthropic's harmless-base pairs and the recipe written for them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from iwpo_fast.cli import main

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

ROOT = Path(__file__).parents[2]
PAIRS = ROOT.parent / "shared" / "data" / "hh_harmless_test.jsonl.gz"


@pytest.mark.slow
@pytest.mark.skipif(not PAIRS.exists(), reason=f"the real pairs are not at {PAIRS}")
def test_the_hh_recipe_starts_at_ln_2_and_learns_the_pairs_it_sees(tmp_path) -> None:
    flags = {
        "data.path": str(PAIRS),
        "data.limit": "160",
        "data.max_length": "128",
        "data.cache_dir": str(tmp_path / "cache"),
        "model.tiny.vocab_size": "512",
        "optim.epochs": "5",
        "optim.lr": "3e-3",
        "output_dir": str(tmp_path / "run"),
        "device": "cpu",
    }
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
    assert main(["train", "--config", str(ROOT / "recipes" / "hh_tiny.yaml"), *arguments]) == 0
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    steps = [metrics for metrics in logged if "loss" in metrics]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    accuracies = [metrics["rewards/accuracies"] for metrics in steps[1:]]
    assert np.mean(accuracies[-2:]) > np.mean(accuracies[:2]) + 0.1
    assert steps[-1]["loss"] < 0.6
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert ledger["rows_read"] + summary["eval_pairs"] == 160
    assert ledger["prompts_cut"] > 0
