"""DRDO from candidates to a student that scores: its recipe, its oracle with a likelihood, and what a run says."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_cases import DATA, STAGES, TINY, read_jsonl, rows_of_four, stages_done, toy_config, write_jsonl
from safetensors.numpy import load_file

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.config import (
    DataConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    RewardConfig,
    RunConfig,
    TuningConfig,
    WeightConfig,
)
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.later_settings import without_later
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.recipe_shelf import SHELF
from iwpo_fast.rewards import heads_on_policy, score_pairs, tuning
from iwpo_fast.rewards.features import pair_features, response_states
from iwpo_fast.rewards.heads_on_policy import HeadsOnPolicy
from iwpo_fast.rewards.own_reward import OwnReward
from iwpo_fast.rewards.tuning import tuned_rewards
from iwpo_fast.world import World

CPU = World(0, 1, torch.device("cpu"))
OPTIM = OptimConfig(lr=1e-3, max_steps=3, pairs_per_step=8, tokens_per_batch=200)
RECIPE = ["--config", str(SHELF / "drdo_ultrafeedback.yaml")]
SMALL = {
    **{"data.path": DATA, "data.max_length": 96, "data.as_chat": "false", "data.eval_fraction": 0.2, "device": "cpu"},
    **{"model.path": "tiny", "model.gradient_checkpointing": "none", "model.lora.rank": 4, "output_dir": "run"},
    **{"model.tiny.vocab_size": 320, "model.tiny.hidden_size": 32, "model.tiny.layers": 1, "model.tiny.heads": 2},
    **{"rewards.tuning.lora.rank": 4, "rewards.tuning.optim.max_steps": 2, "rewards.tuning.optim.pairs_per_step": 8},
    **{"optim.max_steps": 3, "optim.pairs_per_step": 8, "log.every": 1},
}


def new_policy(share: bool | str = "auto") -> Policy:
    tokenizer = train_tokenizer(["The quick brown fox jumps over the lazy dog."], TINY.vocab_size)
    model = ModelConfig(tiny=TINY, lora=LoraConfig(rank=4), share_prompts=share)
    return load_policy(model, tokenizer, CPU, seed=0)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Of random tokens, some with the prompt of another."""
    draw = np.random.default_rng(0)
    chosen, rejected, prompt = (
        Ragged.from_rows([draw.integers(4, 260, draw.integers(2, 9)) for _ in range(24)]) for _ in range(3)
    )
    prompt = prompt.take(np.arange(24) // 2)
    return Pairs(prompt=prompt, chosen=chosen, rejected=rejected, weight=np.ones(24))


def tuned(pairs: Pairs, folder: Path, factor: float) -> np.ndarray:
    """Rewards [C, members], with so much language modelling beside their loss."""
    features = pair_features(new_policy(), pairs, CPU, folder, tokens_per_batch=200)
    settings = RewardConfig(
        folds=2, ensemble=2, ridge=1e-3, residual=None, tuning=TuningConfig(optim=OPTIM, language_modelling=factor)
    )
    tune = partial(
        tuned_rewards, features=features, pairs=pairs, settings=settings, new_policy=new_policy, folder=folder / "folds"
    )
    one_cluster = np.zeros(len(features.prompt), np.int64)
    return score_pairs(features, one_cluster, settings, seed=0, tune=tune).raw


@pytest.mark.parametrize("share", [True, False])
def test_states_and_likelihoods_are_those_of_two_passes(pairs, share) -> None:
    policy = new_policy(share).eval()
    batch = flat_batch(pairs, np.array([3, 2, 7]))
    states, likelihood = heads_on_policy._states_and_likelihood(policy, batch, tokens=int(batch.segments[3]))
    torch.testing.assert_close(states, response_states(policy.hidden_states(batch), batch))
    logps = policy(batch).split(batch.segments.diff().tolist())
    torch.testing.assert_close(likelihood, torch.stack([of_one.mean() for of_one in logps[:3]]))


@pytest.mark.slow
def test_language_modelling_moves_the_oracle_and_the_more_the_more_there_is_of_it(pairs, tmp_path) -> None:
    plain, little, much = (tuned(pairs, tmp_path / str(factor), factor) for factor in (0.0, 1e-3, 10.0))
    assert 0 < np.abs(little - plain).max() < 0.1 * np.abs(much - plain).max()


@pytest.mark.slow
def test_an_oracle_with_language_modelling_finds_chosen_responses_likelier(pairs, tmp_path, monkeypatch) -> None:
    found = {}

    def kept(policy: Policy, *args, factor: float, **kwargs) -> HeadsOnPolicy:
        found.setdefault(factor, []).append(policy)
        return HeadsOnPolicy(policy, *args, **kwargs)

    for factor in (0.0, 10.0):
        monkeypatch.setattr(tuning, "HeadsOnPolicy", partial(kept, factor=factor))
        tuned(pairs, tmp_path / str(factor), factor)
    batch, likelihood = flat_batch(pairs, np.arange(len(pairs))), {}
    for factor, policies in found.items():
        with torch.no_grad():
            likelihood[factor] = [float(policy(batch)[: batch.segments[len(pairs)]].mean()) for policy in policies]
    assert (np.array(likelihood[10.0]) > np.array(likelihood[0.0])).all()


def test_without_it_settings_are_recorded_as_before() -> None:
    config = RunConfig(DataConfig("x"), rewards=RewardConfig(tuning=TuningConfig()))
    assert "language_modelling" not in without_later(dataclasses.asdict(config))["rewards"]["tuning"]
    config.rewards.tuning = TuningConfig(language_modelling=0.1)
    assert without_later(dataclasses.asdict(config))["rewards"]["tuning"]["language_modelling"] == 0.1


def test_language_modelling_without_features_is_refused(place, capsys) -> None:
    write_jsonl(DATA, rows_of_four(4))
    flags = ["--data.path", DATA, "--rewards.source", "columns", "--rewards.tuning.language_modelling", "0.1"]
    assert main(["run", *flags, "--output_dir", "run"]) == 2
    assert "rewards.tuning is set and rewards.source is columns" in capsys.readouterr().err


@pytest.mark.slow
def test_the_student_reads_the_oracle_and_is_evaluated_by_its_own_rewards(place) -> None:
    write_jsonl(DATA, rows_of_four())
    config = toy_config(
        data=DataConfig(path=DATA, eval_fraction=0.2, max_length=96),
        objective=ObjectiveConfig("drdo", reward_head_lr=1e-2),
        rewards=RewardConfig(
            heads="linear", folds=2, ensemble=1, tuning=TuningConfig(optim=OPTIM, language_modelling=0.1)
        ),
        weights=WeightConfig(form="off"),
    )
    assert stages_done(config) == STAGES
    margins = load_file("run/evaluation/margins.safetensors")
    assert not margins["before"].any() and margins["margin"].all()
    held_out = read_jsonl("run/prepared/held_out.jsonl")
    student = OwnReward.load("run", device="cpu")
    chosen, rejected = (
        student.score([row["prompt"] for row in held_out], [row[side] for row in held_out])
        for side in ("chosen", "rejected")
    )
    np.testing.assert_allclose(chosen - rejected, margins["margin"], atol=1e-4)
    assert stages_done(config) == []


@pytest.mark.slow
def test_the_recipe_is_planned_offline(capsys) -> None:
    assert main(["run", *RECIPE, "--dry_run", "true", "--plan.on", "h100"]) == 0
    said = capsys.readouterr().out
    assert "assumed, from plan.data" in said and "training fits on one GPU" in said


@pytest.mark.slow
def test_the_recipe_runs_in_miniature_to_a_student_that_scores(place) -> None:
    write_jsonl(DATA, rows_of_four())
    flags = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    assert main(["run", *RECIPE, *flags]) == 0
    assert Path("run/train/model/reward_head/head.safetensors").exists()
    write_jsonl("answers.jsonl", [{"prompt": "say red\n", "completion": text} for text in ("red", "blue")])
    command = ["score", "--reward_model", "run", "--data.path", "answers.jsonl", "--output", "out.jsonl"]
    assert main([*command, "--device", "cpu"]) == 0
    scores = [json.loads(line)["score"] for line in Path("out.jsonl").read_text().splitlines()]
    assert scores[0] != scores[1]
