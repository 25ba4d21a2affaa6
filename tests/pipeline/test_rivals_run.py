"""Recipes of the rivals that weigh or draw pairs: each is planned with nothing downloaded, and runs in miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_cases import DATA, read_jsonl, rows_of_four, write_jsonl

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.recipe_shelf import SHELF

OF_RUN = ("madpo", "rso", "selective", "uni_dpo")
SMALL = {
    **{"data.path": DATA, "data.max_length": 96, "data.as_chat": "false", "data.eval_fraction": 0.2, "device": "cpu"},
    **{"model.path": "tiny", "model.gradient_checkpointing": "none", "shard_over": 1, "output_dir": "run"},
    **{"model.tiny.vocab_size": 320, "model.tiny.hidden_size": 32, "model.tiny.layers": 1, "model.tiny.heads": 2},
    **{"optim.max_steps": 2, "optim.pairs_per_step": 8},
}


def flags(recipe: str, **settings: object) -> list[str]:
    given = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return ["--config", str(SHELF / f"{recipe}_ultrafeedback.yaml"), *given]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "command"), [*((name, "run") for name in OF_RUN), ("mwpo", "train")])
def test_a_recipe_is_planned_offline(recipe: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    planned = flags(recipe, **{"dry_run": "true", "plan.on": "h100", "plan.gpus": 8})
    assert main([command, *planned]) == 0
    assert "training fits from 4 GPUs on" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OF_RUN)
def test_a_recipe_runs_in_miniature(recipe: str, place: Path) -> None:
    write_jsonl(DATA, rows_of_four(120))
    heads = {"rewards.folds": 2, "rewards.heads": "linear", "rewards.calibration_strength": 0}
    assert main(["run", *flags(recipe, **SMALL, **heads)]) == 0
    rows = read_jsonl("run/weights/train.jsonl")
    if recipe == "rso":
        assert sum(row["drawn"] for row in rows) >= 80
    weight = [row["weight"] for row in rows if not row.get("drawn")]
    assert sum(weight) == pytest.approx(len(weight))
    assert len(set(weight)) > 1 if recipe == "madpo" else len(set(weight)) < len(weight)
    if recipe == "selective":
        assert 0.4 <= sum(w > 0 for w in weight) / len(weight) <= 0.6
    assert Path("run/train/model/model.safetensors").exists()


@pytest.mark.slow
def test_pairs_drawn_as_candidates_were_are_weighed_by_importance(place: Path) -> None:
    write_jsonl(DATA, rows_of_four(120))
    heads = {"rewards.folds": 2, "rewards.heads": "linear", "rewards.calibration_strength": 0}
    assert main(["run", *flags("rso", **SMALL, **heads, **{"weights.opponent": "weighed"})]) == 0
    weight = [row["weight"] for row in read_jsonl("run/weights/train.jsonl") if row["drawn"]]
    assert len(set(weight)) > 10 and 0 < min(weight) < max(weight) <= 6, "K (K - 1) / 2 at most, for K of 4"


@pytest.mark.slow
def test_the_recipe_without_rewards_trains_in_miniature(place: Path) -> None:
    write_jsonl(DATA, rows_of_four())
    assert main(["train", *flags("mwpo", **SMALL)]) == 0
    assert Path("run/model/model.safetensors").exists()
