"""A run with preference embeddings: what their scores become, and who may use the reward model that is left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_cases import DATA, STAGES, read_jsonl, rows_of_four, stages_done, toy_config, write_jsonl, write_toy_data
from report_page import Page
from safetensors.numpy import load_file

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.config import DataConfig, ObjectiveConfig, RewardConfig, RunConfig, WeightConfig
from iwpo_fast.recipe_shelf import SHELF
from iwpo_fast.rewards.reward_model import RewardModel

MODEL = "run/rewards/reward_model"
REWARDS = "run/rewards/rewards.safetensors"


def config(**parts: Any) -> RunConfig:
    given = {
        "rewards": RewardConfig(heads="gpm", folds=2, ensemble=2),
        "objective": ObjectiveConfig(name="gpo"),
        "weights": WeightConfig(form="off"),
    }
    return toy_config(**(given | parts))


def score(path: str, output: str) -> int:
    return main(["score", "--reward_model", MODEL, "--data.path", path, "--output", output, "--device", "cpu"])


@pytest.mark.slow
def test_targets_of_the_objective_are_mean_scores_and_files_are_scored_against_one_another(place, capsys) -> None:
    write_toy_data()
    assert stages_done(config()) == STAGES
    scores = load_file(REWARDS)
    rows = read_jsonl("run/weights/train.jsonl")
    assert np.isfinite(scores["raw"]).all() and all(len(row["scores_chosen"]) == 2 for row in rows)
    assert stages_done(config()) == []
    pairs = [row for row in rows if [other["prompt"] for other in rows].count(row["prompt"]) == 1]
    write_jsonl("pairs.jsonl", [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows])
    assert score("pairs.jsonl", "scored.jsonl") == 0
    for name in ("score_chosen", "score_rejected"):
        found = [row[name] for row in read_jsonl("scored.jsonl")]
        np.testing.assert_allclose(found, [row[name] for row in rows], atol=1e-5)
    texts = ([row[name] for row in pairs] for name in ("prompt", "chosen", "rejected"))
    preferred = RewardModel.load(MODEL).prefer(*texts, device="cpu")
    gaps = [row["score_chosen"] - row["score_rejected"] for row in pairs]
    np.testing.assert_allclose(preferred, gaps, atol=1e-4)
    write_jsonl("alone.jsonl", [{"prompt": "say red\n", "completion": "red"}])
    assert score("alone.jsonl", "never.jsonl") == 2
    said = capsys.readouterr().err
    assert "compares the responses of a prompt (rewards.heads: gpm), and 1 prompts have one" in said
    assert not Path("never.jsonl").exists()


@pytest.mark.slow
def test_another_run_scores_pairs_and_candidates_together(place) -> None:
    write_jsonl(DATA, rows_of_four())
    data = DataConfig(path=DATA, eval_fraction=0.2, max_length=96)
    stages_done(config(data=data))
    theirs = load_file(REWARDS)
    stages_done(config(data=data, rewards=RewardConfig(source="iwpo", model=MODEL), output_dir="other"))
    mine = load_file("other/rewards/rewards.safetensors")
    for name in ("raw", "calibrated"):
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-4)


def in_miniature(**more: Any) -> int:
    """The recipe of GPO, on four candidates to each prompt."""
    write_jsonl(DATA, rows_of_four())
    settings = {
        **{"data.path": DATA, "data.max_length": 96, "data.as_chat": "false", "data.eval_fraction": 0.2},
        **{"model.path": "tiny", "model.gradient_checkpointing": "none", "shard_over": 1, "device": "cpu"},
        **{"model.tiny.vocab_size": 320, "model.tiny.hidden_size": 32, "model.tiny.layers": 1, "model.tiny.heads": 2},
        **{"rewards.folds": 2, "optim.max_steps": 2, "optim.pairs_per_step": 8, "output_dir": "run"},
    }
    flags = [text for name, value in (settings | more).items() for text in (f"--{name}", str(value))]
    return main(["run", "--config", str(SHELF / "gpo_ultrafeedback.yaml"), *flags])


@pytest.mark.slow
def test_the_recipe_runs_in_miniature_and_says_what_read_rewards(place, capsys) -> None:
    assert in_miniature() == 0
    terminal = capsys.readouterr().out
    later = "24 held out, evaluated after the training, because gpo reads rewards, which are made for training pairs"
    assert f"tokens an epoch), {later} alone\n" in terminal and "24 pairs of 4 prompts); by cluster" in terminal
    card = Path("run/train/model/README.md").read_text(encoding="utf-8")
    assert later in card and "| objective | gpo (β = 0.001) |" in card
    assert "Rewards: gpm heads on features of the model, " in card
    assert "are read by the objective gpo. Pairs are not weighed by rewards; weights: all alike; " in card
    text = "".join(Page(Path("run/report.html").read_text(encoding="utf-8")).text).replace("\u00a0", " ")
    assert "model tiny · objective gpo (β = 0.001) · learning rate 5e-07 · 2 steps of 8 pairs" in text
    assert "rows read40100.0 %pairs that they make240100.0 %held out, for evaluation alone2410.0 %" in text
    assert "% of 24 held-out pairs of 4 prompts (95 % interval " in text
    right = json.loads(Path("run/rewards/report.json").read_text())["penalties"]["preferences"]["pair_accuracy"]
    assert f"on held-out pairs these scores are right in {right:.1%}".replace("%", " %") in text
    assert load_file(f"{MODEL}/arrays.safetensors")["heads.gate"].shape[-1] == 4
    assert Path("run/train/model/model.safetensors").exists()


@pytest.mark.slow
def test_the_recipe_runs_on_a_tuned_model_whose_rewards_are_mean_scores_too(place, capsys) -> None:
    assert in_miniature(**{"rewards.tuning.optim.lr": 1e-3, "rewards.tuning.optim.max_steps": 3}) == 0
    assert re.search(r"scores of pairs are right in \d+\.\d%, after tuning in \d+\.\d%", capsys.readouterr().out)
    raw = load_file(REWARDS)["raw"]
    table = load_file("run/reference/pairs.safetensors")
    totals = np.zeros((int(table["prompt_of"].max()) + 1, raw.shape[1]))
    np.add.at(totals, table["prompt_of"], raw)
    assert np.abs(raw).max() > 0.01
    np.testing.assert_allclose(totals, 0, atol=1e-4)
    assert Path("run/train/model/model.safetensors").exists()
    assert score(DATA, "scored.jsonl") == 0
    assert all(np.isfinite(row["scores"]).all() for row in read_jsonl("scored.jsonl"))
