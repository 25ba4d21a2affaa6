"""The recipe of EM-DPO is planned with nothing downloaded, and runs in miniature."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.files import load_record
from iwpo_fast.recipe_shelf import SHELF

RECIPE = ["train", "--config", str(SHELF / "em_dpo_annotators.yaml")]
SMALL = {
    **{"data.max_length": 48, "device": "cpu", "model.path": "tiny", "model.gradient_checkpointing": "none"},
    **{"model.tiny.vocab_size": 320, "model.tiny.hidden_size": 32, "model.tiny.layers": 1, "model.tiny.heads": 2},
    **{"optim.max_steps": 2, "optim.pairs_per_step": 8, "types.rounds": 2, "types.count": 3},
    **{"types.mixture_prompts": 4, "types.mixture_tokens": 3},
}


@pytest.mark.slow
def test_it_is_planned_offline(capsys: pytest.CaptureFixture[str]) -> None:
    planned = ["--data.path", "me/votes", "--dry_run", "true", "--plan.on", "h100", "--plan.gpus", "8"]
    assert main([*RECIPE, *planned]) == 0
    said = capsys.readouterr().out
    assert "training fits" in said and "5 rounds of 4 types train 20 times as long" in said


@pytest.mark.slow
def test_it_runs_in_miniature(votes: Path, tmp_path: Path) -> None:
    given = {"data.path": votes, "data.cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run", **SMALL}
    assert main([*RECIPE, *(text for name, value in given.items() for text in (f"--{name}", str(value)))]) == 0
    report = load_record(tmp_path / "run" / "annotators.json")
    assert len(report["rounds"]) == 2 and len(report["annotators"]["ann0"]) == 3
    assert len(load_record(tmp_path / "run" / "mixture" / "mixture.json")["weights"]) == 3
    assert all((tmp_path / "run" / "mixture" / f"type-{number}" / "config.json").exists() for number in range(3))
