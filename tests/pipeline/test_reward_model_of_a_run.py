"""The reward model that a pipeline leaves: it scores the run's own pairs as the run did, and other texts and runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_cases import DATA, TINY, read_jsonl, stages_done, toy_config, toy_rows, write_jsonl
from safetensors.numpy import load_file

from iwpo_fast.cli import main
from iwpo_fast.config import RewardConfig
from iwpo_fast.data.rows import Rows
from iwpo_fast.files import load_record, save_record
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.rewards.feature_reader import FeatureReader
from iwpo_fast.rewards.reward_model import RewardModel
from iwpo_fast.world import World

FOLDER = Path("run/rewards/reward_model")
WEIGHTED = Path("run/weights/train.jsonl")


def test_the_pairs_of_the_run_get_bitwise_the_scores_of_the_run(copied, tmp_path_factory) -> None:
    """By its features, made anew from the texts in another place; nothing else of the run is left."""
    rows, expected = read_jsonl(WEIGHTED), load_file("run/rewards/rewards.safetensors")
    scores_of_run = {name: [row[name] for row in rows] for name in ("score_chosen", "score_rejected", "cluster")}
    members = [row["scores_chosen"] for row in rows]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for part in ("rewards/reward_model", "prepared/tiny"):
        shutil.copytree(f"run/{part}", elsewhere / part)
    shutil.rmtree("run")
    model = RewardModel.load(elsewhere / "rewards/reward_model")
    prompts, chosen, rejected = ([row[name] for row in rows] for name in ("prompt", "chosen", "rejected"))
    reader = FeatureReader.load(model.record, World.start("cpu")).with_options(None, str(elsewhere / "cache"))
    found = model.score_rows(Rows("here", np.arange(len(rows)), prompts, chosen, rejected), reader)
    assert found.score[:, 0].tolist() == scores_of_run["score_chosen"]
    assert found.score[:, 1].tolist() == scores_of_run["score_rejected"]
    assert found.members[:, 0].tolist() == members
    assert found.cluster.tolist() == [[k, k] for k in scores_of_run["cluster"]]
    for name in ("trust", "slope", "centre", "reliability"):
        assert np.array_equal(getattr(model.calibration, name), expected[name])


def test_texts_alone_are_scored_as_in_pairs(copied) -> None:
    rows, model = read_jsonl(WEIGHTED), RewardModel.load(FOLDER)
    prompts = [row["prompt"] for row in rows]
    found = model.score(prompts, [row["chosen"] for row in rows], device="cpu")
    np.testing.assert_allclose(found.score, [row["score_chosen"] for row in rows], atol=1e-5)
    assert found.members.shape == (len(rows), 4)


def test_each_response_runs_once_and_the_language_model_is_loaded_once(copied, monkeypatch) -> None:
    model, ran, loaded = RewardModel.load(FOLDER), [], []
    real, real_load = Policy.hidden_states, load_policy

    def counted(self, batch) -> torch.Tensor:
        ran.append(len(batch.segments) - 1)
        return real(self, batch)

    monkeypatch.setattr(Policy, "hidden_states", counted)
    monkeypatch.setattr(
        "iwpo_fast.rewards.feature_reader.load_policy", lambda *a, **k: loaded.append(1) or real_load(*a, **k)
    )
    prompts = ["say 1: red\n"] * 5 + ["say 2: red\n"]
    model.score(prompts[:1], ["green"], device="cpu")
    ran.clear()
    found = model.score(prompts, ["red", "blue", "red", "", "red", "red"], device="cpu")
    assert sum(ran) == 4
    assert found.score[0] == found.score[2] == found.score[4] != found.score[1]
    assert loaded == [1]


def test_an_empty_completion_has_the_reward_of_features_that_are_0(copied) -> None:
    record = load_record(FOLDER / "reward_model.json")
    record["tokens"]["add_eos"] = False
    save_record(FOLDER / "reward_model.json", record)
    model = RewardModel.load(FOLDER)
    both = model.score(["say 1: red\n"] * 2, ["", "blue"], device="cpu")
    alone = model.score(["say 1: red\n"], [""], device="cpu")
    for found in (both, alone):
        heads, k = model.heads, found.cluster[0]
        vectors = heads.vectors[k if len(heads.vectors) > 1 else 0].astype(np.float64)
        zero = np.einsum("d,dfm->fm", -heads.mean.astype(np.float64) * heads.scale, vectors) * heads.slope
        assert found.raw[0].mean() == pytest.approx(zero.mean(), abs=1e-4)
    assert both.cluster[0] == both.cluster[1]


def test_conversations_are_scored_and_mixtures_refused(copied) -> None:
    model = RewardModel.load(FOLDER)
    ask = [{"role": "user", "content": "say red"}]
    answer = [{"role": "assistant", "content": "red"}]
    found = model.score([ask, ask, "say red"], [answer, "red", answer], device="cpu")
    assert found.score[0] == found.score[1] == found.score[2]
    assert np.isfinite(model.score([ask], [[]], device="cpu").score).all()
    with pytest.raises(ValueError, match="Text 2 mixes conversations and plain text"):
        model.score([ask, "say red"], [answer, "red"], device="cpu")
    with pytest.raises(ValueError, match="1 prompts and 2 completions: give one completion for each"):
        model.score(["say red"], ["red", "blue"], device="cpu")
    with pytest.raises(ValueError, match="Text 1 has no completion"):
        model.score(["say red"], [None], device="cpu")


def test_what_is_too_long_has_no_score_where_the_run_dropped_it(copied) -> None:
    found = RewardModel.load(FOLDER).score(["say red\n"] * 2, ["red", "blue " * 200], device="cpu")
    assert np.isnan(found.score).tolist() == np.isnan(found.spread).tolist() == [False, True]
    assert found.cluster[0] >= 0 and found.cluster[1] == -1


def save_other_model(place: Path, hidden_size: int, seed: int) -> None:
    tokenizer = train_tokenizer(["The quick brown fox"], TINY.vocab_size)
    config = toy_config().model
    config.tiny.hidden_size = hidden_size
    load_policy(config, tokenizer, World.start("cpu"), seed=seed).save(place, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden_size", "sentence"),
    [(64, "was learnt on hidden states of size 32, and other has 64"), (32, "with the fingerprint [0-9a-f]{12}, and")],
)
def test_another_language_model_is_refused_by_name(copied, hidden_size, sentence) -> None:
    save_other_model(copied / "other", hidden_size, seed=7)
    model = RewardModel.load(FOLDER)
    with pytest.raises(ValueError, match=sentence):
        model.score(["say red\n"], ["red"], device="cpu", language_model="other")
    shutil.move("run/prepared/tiny", "moved")
    assert np.isfinite(model.score(["say red\n"], ["red"], device="cpu", language_model="moved").score).all()
    with pytest.raises(ValueError, match=r"reads features of the language model .*prepared/tiny, which cannot be"):
        model.score(["say red\n"], ["red"], device="cpu")


@pytest.mark.slow
def test_another_run_takes_the_scores_as_they_are(copied, monkeypatch) -> None:
    write_jsonl("other.jsonl", [row for row in toy_rows(90, seed=1) if row["prompt"] > "s"] + read_jsonl(DATA)[:7])
    rewards = RewardConfig(source="iwpo", model=str(FOLDER))
    stages_done(toy_config(rewards=rewards, output_dir="same"))
    mine, theirs = (load_file(f"{run}/rewards/rewards.safetensors") for run in ("same", "run"))
    for name in ("raw", "calibrated", "members_calibrated"):
        assert np.array_equal(mine[name], theirs[name])
    np.testing.assert_allclose(mine["trust"], theirs["trust"])
    np.testing.assert_allclose(mine["reliability"], theirs["reliability"])
    assert not (PipelineFolder(Path("same")).reward_model).exists()

    config = toy_config(rewards=rewards, output_dir="new")
    config.data.path, config.data.truncation = "other.jsonl", "truncate_prompt_left"
    stages_done(config)
    found = load_file("new/rewards/rewards.safetensors")
    assert np.isfinite(found["calibrated"]).all() and (found["slope"] == 1).all() and (found["centre"] == 0).all()
    shutil.copytree(FOLDER, "moved")
    assert stages_done(config) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--rewards.source", "iwpo"], "rewards.source is iwpo and rewards.model is None"),
        (["--rewards.source", "iwpo", "--rewards.model", "absent"], "absent holds no reward model: give the folder"),
        (
            ["--rewards.source", "iwpo", "--rewards.model", str(FOLDER), "--rewards.max_reward", "3"],
            "rewards.max_reward is 3.0 and rewards.source is iwpo, whose scores are calibrated already",
        ),
        (
            ["--rewards.source", "iwpo", "--rewards.model", str(FOLDER), "--rewards.folds", "2"],
            "rewards.folds is 2 and rewards.source is iwpo, which learns no heads",
        ),
    ],
)
def test_a_reward_model_that_cannot_be_taken_is_refused_before_anything_is_made(
    copied, capsys, flags, sentence
) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    assert main(["run", "--data.path", DATA, "--output_dir", "other", "--device", "cpu", *flags]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert not Path("other/prepared").exists()


@pytest.mark.slow
def test_pairs_that_the_reward_model_drops_are_named(copied) -> None:
    config = toy_config(rewards=RewardConfig(source="iwpo", model=str(FOLDER)), output_dir="long")
    config.data.truncation = "truncate_completion"
    with pytest.raises(ValueError, match=r"row 8 \(the first of 2\) has no score.*longer than 96 tokens"):
        stages_done(config)
