"""A run with pessimism: what its scores become, and that the reward model that is left lowers them too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pipeline_cases import DATA, read_jsonl, rows_of_four, write_jsonl

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from safetensors.numpy import load_file

from iwpo_fast.cli import main
from iwpo_fast.recipe_shelf import SHELF

MODEL = "run/rewards/reward_model"
RECIPE = str(SHELF / "braid_ultrafeedback.yaml")


@pytest.mark.slow
def test_the_recipe_runs_in_miniature_and_its_reward_model_gives_the_same_scores(place) -> None:
    write_jsonl(DATA, rows_of_four())
    settings = {
        **{"data.path": DATA, "data.max_length": 96, "data.as_chat": "false", "data.eval_fraction": 0.2},
        **{"model.path": "tiny", "model.gradient_checkpointing": "none", "shard_over": 1, "device": "cpu"},
        **{"model.tiny.vocab_size": 320, "model.tiny.hidden_size": 32, "model.tiny.layers": 1, "model.tiny.heads": 2},
        **{"rewards.folds": 2, "optim.max_steps": 2, "optim.pairs_per_step": 8, "output_dir": "run"},
        **{"candidates.max_new_tokens": 8},
    }
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    assert main(["run", "--config", RECIPE, *flags]) == 0
    assert load_file(f"{MODEL}/arrays.safetensors")["pessimism.root"].shape == (2, 33, 33)
    rows = [row for row in read_jsonl("run/weights/train.jsonl") if not row.get("drawn")]
    write_jsonl("pairs.jsonl", [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows])
    asked = ["score", "--reward_model", MODEL, "--data.path", "pairs.jsonl", "--output", "scored.jsonl"]
    assert main([*asked, "--device", "cpu"]) == 0
    for name in ("score_chosen", "score_rejected"):
        found = [row[name] for row in read_jsonl("scored.jsonl")]
        np.testing.assert_allclose(found, [row[name] for row in rows], atol=1e-4)
    assert Path("run/train/model/model.safetensors").exists()


@pytest.mark.slow
def test_the_recipe_is_planned_without_a_network(place, capsys) -> None:
    assert main(["run", "--config", RECIPE, "--dry_run", "true", "--plan.on", "h100", "--plan.gpus", "8"]) == 0
    assert "heads: about" in capsys.readouterr().out
