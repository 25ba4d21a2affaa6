"""CaPO's recipe is planned with nothing downloaded, and trains in miniature on candidates with several rewards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows
from iwpo_fast.recipe_shelf import SHELF

RECIPE = ["--config", str(SHELF / "capo_ultrafeedback.yaml")]
DATA = "ultrafeedback.jsonl"
SMALL = {
    **{"data.path": DATA, "data.max_length": 96, "data.as_chat": "false", "data.eval_fraction": 0, "device": "cpu"},
    **{"model.path": "tiny", "model.gradient_checkpointing": "none", "shard_over": 1, "output_dir": "run"},
    **{"model.tiny.vocab_size": 320, "model.tiny.hidden_size": 32, "model.tiny.layers": 1, "model.tiny.heads": 2},
    **{"optim.max_steps": 2, "optim.pairs_per_step": 16, "log.every": 1, "data.cache_dir": "cache"},
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def row(prompt: int) -> dict[str, object]:
    """Four completions, of which two aspects have opposite opinions."""
    ratings = [(5, 1 + prompt % 3), (1, 5), (3, 1), (1, 1)]
    completions = [
        {"response": f"answer {k}", "annotations": {"helpful": {"Rating": str(a)}, "honest": {"Rating": str(b)}}}
        for k, (a, b) in enumerate(ratings)
    ]
    return {"instruction": f"question {prompt}\n", "completions": completions}


@pytest.mark.slow
def test_the_recipe_is_planned_offline(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *RECIPE, "--dry_run", "true", "--plan.on", "h100", "--plan.gpus", "8"]) == 0
    said = capsys.readouterr().out
    assert "assumed, from plan.data" in said and "training fits from 4 GPUs on" in said


@pytest.mark.slow
def test_the_recipe_regresses_on_the_gaps_of_win_rates_in_miniature() -> None:
    Path(DATA).write_text("".join(json.dumps(row(prompt)) + "\n" for prompt in range(16)))
    flags = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    assert main(["train", *RECIPE, *flags]) == 0
    assert Path("run/model/model.safetensors").exists()
    rows = read_rows(DataConfig(path=DATA, eval_fraction=0.0, pairs_from_candidates="pareto"))[0]
    gaps = rows.columns["score_chosen"] - rows.columns["score_rejected"]
    assert len(rows) == 16 and set(rows.rejected) == {"answer 3"} and len(set(rows.chosen)) == 2
    first = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx((gaps**2).mean(), rel=1e-5)  # the policy is the reference yet
