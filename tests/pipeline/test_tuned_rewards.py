"""Rewards by heads on a fine-tuned model: who has seen what, what it learns, and a call that goes on with another."""

from __future__ import annotations

import dataclasses
import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_cases import DATA, STAGES, TINY, WORDS, results, stages_done, toy_config, write_jsonl
from safetensors.numpy import load_file

from iwpo_fast.cli import main
from iwpo_fast.config import ClusterConfig, LoraConfig, ModelConfig, OptimConfig, RewardConfig, TuningConfig
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.files import save_tensors
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.rewards import PairFeatures, RewardScores, score_pairs, tuning
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.features import pair_features
from iwpo_fast.rewards.tuning import tuned_rewards
from iwpo_fast.world import World

CPU = torch.device("cpu")
SETTINGS = RewardConfig(folds=2, ensemble=2, ridge=1e-3, residual=1e-2)
OPTIM = OptimConfig(lr=1e-3, max_steps=3, pairs_per_step=8, tokens_per_batch=200)


def new_policy() -> Policy:
    tokenizer = train_tokenizer(["The quick brown fox jumps over the lazy dog."], TINY.vocab_size)
    return load_policy(ModelConfig(tiny=TINY, lora=LoraConfig(rank=4)), tokenizer, World(0, 1, CPU), seed=0)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Of random tokens, with prompts and completions of their own."""
    draw = np.random.default_rng(0)
    parts = ([draw.integers(4, 260, draw.integers(2, 9)) for _ in range(40)] for _ in range(3))
    prompt, chosen, rejected = (Ragged.from_rows(part) for part in parts)
    return Pairs(prompt=prompt, chosen=chosen, rejected=rejected, weight=np.ones(40))


def swapped(pairs: Pairs, where: np.ndarray) -> Pairs:
    def joined(first: Ragged, second: Ragged) -> Ragged:
        return Ragged.from_rows([(second if where[i] else first)[i] for i in range(len(where))])

    sides = {"chosen": joined(pairs.chosen, pairs.rejected), "rejected": joined(pairs.rejected, pairs.chosen)}
    return dataclasses.replace(pairs, **sides)


def features_of(pairs: Pairs, folder: Path) -> PairFeatures:
    policy = new_policy()
    world = World(0, 1, CPU)
    budget = 200
    return pair_features(policy, pairs, world, folder, tokens_per_batch=budget)


def score(
    pairs: Pairs, folder: Path, *, tuned: bool = True, likelihood: bool = False, **options
) -> tuple[RewardScores, PairFeatures]:
    """In three clusters, by the tuned model unless told otherwise; options change the optimiser."""
    features = features_of(pairs, folder)
    tuning = TuningConfig(optim=dataclasses.replace(OPTIM, **options)) if tuned else None
    settings = dataclasses.replace(SETTINGS, likelihood=likelihood, tuning=tuning)
    tune = partial(
        tuned_rewards, features=features, pairs=pairs, settings=settings, new_policy=new_policy, folder=folder / "folds"
    )
    cluster = np.arange(len(pairs)) % 3
    scores = score_pairs(features, cluster, settings, seed=0, tune=tune if tuned else None)
    return scores, features


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", [False, True])
def test_an_adapter_that_learns_nothing_gives_the_rewards_of_the_frozen_model(pairs, tmp_path, likelihood) -> None:
    frozen = score(pairs, tmp_path / "frozen", tuned=False, likelihood=likelihood)[0].raw
    still = score(pairs, tmp_path / "still", lr=1e-12, likelihood=likelihood)[0].raw
    moved = score(pairs, tmp_path / "moved", likelihood=likelihood)[0].raw
    np.testing.assert_allclose(still, frozen, atol=2e-3 * frozen.std())  # features of the frozen model are float16
    assert np.abs(moved - frozen).max() > 0.1 * frozen.std()


@pytest.mark.slow
def test_no_prompt_is_scored_by_a_model_that_saw_its_labels(pairs, tmp_path) -> None:
    before, features = score(pairs, tmp_path / "before")
    fold = fold_of_prompts(features.prompt_keys, 2, seed=0)
    after, other = score(swapped(pairs, fold == 1), tmp_path / "after")
    chosen = before.raw[features.table.chosen]
    same_texts = np.where((fold == 1)[:, None], after.raw[other.table.rejected], after.raw[other.table.chosen])
    np.testing.assert_allclose(same_texts[fold == 1], chosen[fold == 1], rtol=1e-3, atol=1e-4)
    assert np.abs(same_texts - chosen)[fold == 0].max() > 0.1


@pytest.mark.slow
def test_rewards_do_not_depend_on_how_steps_are_cut_into_batches(pairs, tmp_path) -> None:
    whole = score(pairs, tmp_path / "whole", tokens_per_batch=10_000)[0].raw
    cut = score(pairs, tmp_path / "cut", tokens_per_batch=40)[0].raw
    np.testing.assert_allclose(cut, whole, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(score(pairs, tmp_path / "again", tokens_per_batch=40)[0].raw, cut)


@pytest.mark.slow
def test_rewards_that_are_not_finite_are_refused(pairs, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"is not finite: lower rewards\.tuning\.optim\.lr\."):
        score(pairs, tmp_path, lr=1e30, max_grad_norm=None)
    assert not list((tmp_path / "folds").glob("*"))


def first_words(prompts: int) -> list[dict[str, str]]:
    """The chosen completion starts with the prompt's last word, the rejected one with another; they end alike."""
    draw = random.Random(0)
    rows = []
    for i in range(prompts):
        right, wrong = draw.sample(WORDS, 2)
        end = " ".join(draw.choices(WORDS, k=2))
        texts = {"chosen": f"{right} {end}", "rejected": f"{wrong} {end}"}
        rows.append({"prompt": f"repeat {i % 7} {right}\n"} | texts)
    return rows


def held_out_accuracy() -> float:
    return json.loads(Path("run/rewards/report.json").read_text())["total"]["accuracy"]


@pytest.mark.slow
def test_tuning_learns_what_heads_on_frozen_features_do_not(place) -> None:
    write_jsonl(DATA, first_words(200))
    rewards = RewardConfig(folds=2, ensemble=1)
    config = toy_config(rewards=rewards, clusters=ClusterConfig(count=1, backend="sklearn"))
    for stage in STAGES[:4]:
        stages_done(config, only=stage)
    frozen = held_out_accuracy()
    config.rewards.tuning = TuningConfig(optim=OptimConfig(lr=3e-3, epochs=10, pairs_per_step=16))
    stages_done(config, only="reward")
    assert held_out_accuracy() > frozen + 0.1


@pytest.mark.slow
def test_a_killed_tuning_goes_on_behind_its_last_fold(copied, monkeypatch) -> None:
    config = toy_config(rewards=RewardConfig(folds=3, ensemble=2, tuning=TuningConfig(optim=OPTIM)))
    loaded: list[int] = []
    new_policy = PipelineJob.new_policy

    def killed_at_the_third(self, lora) -> Policy:
        loaded.append(len(loaded))
        if loaded == [0, 1, 2]:
            raise KeyboardInterrupt
        return new_policy(self, lora)

    monkeypatch.setattr(PipelineJob, "new_policy", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        stages_done(config)
    assert sorted(path.name for path in Path("run/rewards/folds").iterdir()) == [
        "fold-0.safetensors",
        "fold-1.safetensors",
    ]
    assert stages_done(config) == STAGES[3:]
    assert len(loaded) == 4
    assert not Path("run/rewards/folds").exists()
    after = results(copied)
    assert stages_done(config, only="reward") == ["reward"]
    assert len(loaded) == 7
    assert results(copied) == after


REFUSED = [
    (["--rewards.source", "columns", "--rewards.tuning.lora.rank", "4"], "it goes with the source features"),
    (["--rewards.overlap", "0.1", "--rewards.tuning.lora.rank", "4"], "set rewards.overlap to 0 or leave"),
    (["--rewards.tuning.lora.rank", "0"], "rewards.tuning.lora.rank is 0: it must be positive."),
    (["--rewards.tuning.optim.lr", "0"], "rewards.tuning.optim.lr is 0.0: it must be positive and finite."),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_settings_that_cannot_be_are_one_sentence(place, capsys, flags, sentence) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    write_jsonl(DATA, first_words(4))
    assert main(["run", "--data.path", DATA, "--output_dir", "run", "--device", "cpu", *flags]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("iwpo: error: ") and said.count("\n") == 1


@pytest.mark.slow
def test_the_calibrated_rewards_are_those_of_the_tuned_model(copied) -> None:
    stages_done(toy_config(rewards=SETTINGS), only="reward")
    frozen = load_file("run/rewards/rewards.safetensors")
    config = toy_config(rewards=dataclasses.replace(SETTINGS, tuning=TuningConfig(optim=OPTIM)))
    assert stages_done(config) == STAGES[3:]
    tuned = load_file("run/rewards/rewards.safetensors")
    assert tuned.keys() == frozen.keys()
    assert all(tuned[name].shape == frozen[name].shape for name in frozen)
    assert np.corrcoef(tuned["raw"].mean(1), frozen["raw"].mean(1))[0, 1] < 0.999


def test_a_damaged_fold_is_tuned_again(tmp_path, caplog) -> None:
    path = tmp_path / "fold-0.safetensors"
    assert tuning._kept(path) is None
    save_tensors(path, {"rewards": torch.arange(6.0).reshape(3, 2)})
    assert tuning._kept(path).tolist() == [[0, 1], [2, 3], [4, 5]] and not caplog.text
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    assert tuning._kept(path) is None and "are damaged: tuning this fold again" in caplog.text
