"""The reward model of a run with `rewards.tuning`: each fold scores by its own adapter, as it did in the run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from pipeline_cases import read_jsonl, stages_done, toy_config, toy_rows, write_jsonl
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from iwpo_fast.cli import main
from iwpo_fast.command_config import EvaluateConfig
from iwpo_fast.config import LoraConfig, OptimConfig, PessimismConfig, RewardConfig, TuningConfig
from iwpo_fast.data.rows import Rows
from iwpo_fast.evaluation.command.judge import judge_of
from iwpo_fast.files import load_record, save_record, save_tensors
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.rewards import tuned_features
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.feature_reader import FeatureReader
from iwpo_fast.rewards.reward_model import RewardModel
from iwpo_fast.rewards.text_rows import rows_of_texts
from iwpo_fast.training import train
from iwpo_fast.world import World

pytestmark = pytest.mark.slow
FOLDER = Path("run/rewards/reward_model")
WEIGHTED = Path("run/weights/train.jsonl")
SIDES = ("score_chosen", "score_rejected")
ATOL = 5e-6
"""Of scores with a standard deviation of up to 0.8, whose largest error was 7e-7: batches have other shapes here."""


def rewards(heads: str = "linear", **options: object) -> RewardConfig:
    optim = OptimConfig(lr=1e-3, max_steps=5, pairs_per_step=8, tokens_per_batch=400)
    tuning = TuningConfig(lora=LoraConfig(rank=4), optim=optim)
    return RewardConfig(heads=heads, folds=3, ensemble=2, tuning=tuning, **options)  # type: ignore[arg-type]


def tune(settings: RewardConfig) -> None:
    """Do the stages `reward` and `weigh` of the finished pipeline again."""
    for stage in ("reward", "weigh"):
        stages_done(toy_config(rewards=settings), only=stage)


@pytest.fixture(scope="module")
def linear(finished, tmp_path_factory) -> Path:
    """Tuned under linear heads; to be read only."""
    place = tmp_path_factory.mktemp("tuned")
    shutil.copytree(finished, place, dirs_exist_ok=True)
    with contextlib.chdir(place):
        tune(rewards())
    return place


@pytest.fixture
def tuned(place, linear) -> Path:
    shutil.copytree(linear, place, dirs_exist_ok=True)
    return place


def columns(rows: list[dict], *names: str) -> list[list]:
    return [[row[name] for row in rows] for name in names]


def scored(path: Path, folder: Path = FOLDER, output: str = "scored.jsonl") -> list[dict]:
    """What `iwpo score` makes of the pairs of a file."""
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    texts = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in read_jsonl(path)]
    write_jsonl("texts.jsonl", texts)
    flags = ["--reward_model", str(folder), "--data.path", "texts.jsonl", "--output", output, "--device", "cpu"]
    assert main(["score", *flags]) == 0
    return read_jsonl(output)


def check_as_in_the_run(found: list[dict]) -> None:
    rows = read_jsonl(WEIGHTED)
    assert columns(found, "cluster") == columns(rows, "cluster")
    assert np.std(columns(rows, *SIDES)) > 0.1
    for name in SIDES:
        np.testing.assert_allclose(*(columns(of, name)[0] for of in (found, rows)), rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    "settings",
    [rewards("gpm"), rewards("mlp", likelihood=True), rewards(pessimism=PessimismConfig(form="minimum"))],
    ids=["gpm", "mlp", "minimum"],
)
def test_heads_of_every_kind_give_the_pairs_of_the_run_the_scores_of_the_run(copied, settings) -> None:
    tune(settings)
    check_as_in_the_run(scored(WEIGHTED))


def test_pairs_of_the_run_get_its_scores_in_another_place_by_adapters(tuned, tmp_path_factory, monkeypatch) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for part in ("rewards/reward_model", "prepared/tiny"):
        shutil.copytree(f"run/{part}", elsewhere / part)
        shutil.rmtree(f"run/{part}")
    folder = elsewhere / "rewards/reward_model"
    found = scored(WEIGHTED, folder)
    check_as_in_the_run(found)
    monkeypatch.setattr(tuned_features, "put_adapter", lambda policy, folder: None)
    frozen = scored(WEIGHTED, folder, "frozen.jsonl")
    assert np.abs(np.subtract(*(columns(of, *SIDES) for of in (found, frozen)))).max() > 0.05


def test_texts_alone_and_members_are_scored_as_in_pairs(tuned) -> None:
    rows = read_jsonl(WEIGHTED)
    found = RewardModel.load(FOLDER).score(*columns(rows, "prompt", "chosen"), device="cpu")
    np.testing.assert_allclose(found.score, columns(rows, "score_chosen")[0], atol=ATOL)
    np.testing.assert_allclose(found.members, columns(rows, "scores_chosen")[0], atol=ATOL)


def test_new_prompts_are_scored_by_all_folds_each_on_its_own_features(tuned) -> None:
    model, rows = RewardModel.load(FOLDER), rows_of_texts(*columns(toy_rows(20, seed=3), "prompt", "chosen"))
    reader = FeatureReader.load(model.record, World.start("cpu")).with_options(None, "cache")
    features, _, _ = reader.features(rows)
    assert not model.training_prompts & set(features.prompt_keys)
    found, heads = model.score_features(features), model.heads
    inputs = np.stack([(one.astype(np.float64) - heads.mean) * heads.scale for one in features.tuned])
    vectors = heads.vectors[found.cluster if len(heads.vectors) > 1 else np.zeros_like(found.cluster)]
    every = np.einsum("fcd,cdfm->cfm", inputs, vectors.astype(np.float64)) * heads.slope
    np.testing.assert_allclose(found.raw.mean(axis=1), every.mean(axis=(1, 2)), atol=1e-5)
    fold = fold_of_prompts(features.prompt_keys, 3, 0)[features.table.prompt_of]
    np.testing.assert_allclose(found.raw.std(axis=1), every[np.arange(len(every)), fold].std(axis=1), atol=1e-5)


def test_each_response_runs_once_for_each_fold_and_once_frozen_and_the_model_is_loaded_once(tuned, monkeypatch) -> None:
    model, ran, loaded = RewardModel.load(FOLDER), [], []
    real, real_load = Policy.hidden_states, load_policy

    def counted(self, batch) -> torch.Tensor:
        ran.append(len(batch.segments) - 1)
        return real(self, batch)

    def load(*arguments, **options) -> Policy:
        loaded.append(1)
        return real_load(*arguments, **options)

    monkeypatch.setattr("iwpo_fast.rewards.feature_reader.load_policy", load)
    prompts = ["say 1: red\n"] * 5 + ["say 2: red\n"]
    before = model.score(prompts, ["red", "blue", "red", "", "red", "red"], device="cpu").score
    monkeypatch.setattr(Policy, "hidden_states", counted)
    again = model.score(prompts, ["red", "blue", "red", "", "red", "red"], device="cpu").score
    assert np.isfinite(before).all() and before.tolist() == again.tolist()  # whatever adapter was left in its place
    assert sum(ran) == 4 * (1 + 3)
    assert loaded == [1]


def test_preferred_are_the_gaps_of_the_run_where_a_prompt_has_two_responses(copied) -> None:
    tune(rewards("gpm"))
    rows = read_jsonl(WEIGHTED)
    alone = [row for row in rows if [other["prompt"] for other in rows].count(row["prompt"]) == 1]
    preferred = RewardModel.load(FOLDER).prefer(*columns(alone, "prompt", "chosen", "rejected"), device="cpu")
    chosen, rejected = columns(alone, *SIDES)
    assert np.std(chosen) > 0.1
    np.testing.assert_allclose(preferred, np.subtract(chosen, rejected), atol=2 * ATOL)


def test_another_run_and_an_evaluation_take_the_same_scores(tuned) -> None:
    stages_done(toy_config(rewards=RewardConfig(source="iwpo", model=str(FOLDER)), output_dir="same"))
    mine, theirs = (load_file(f"{run}/rewards/rewards.safetensors") for run in ("same", "run"))
    for name in ("raw", "calibrated", "members_calibrated"):
        np.testing.assert_allclose(mine[name], theirs[name], atol=ATOL)
    assert not Path("same/rewards/reward_model").exists()
    rows = read_jsonl(WEIGHTED)
    config = EvaluateConfig(model="run", output="never.json", reward_model=str(FOLDER))
    texts = columns(rows, "prompt", "chosen", "rejected")
    judged = judge_of(config, World.start("cpu"), Path("cache"))(Rows("here", np.arange(len(rows)), *texts))
    np.testing.assert_allclose(judged.scores.T, columns(rows, *SIDES), atol=ATOL)


def test_a_model_that_began_from_an_adapter_is_scored_as_in_the_run(copied) -> None:
    shutil.move("run/prepared/tiny", "base")
    shutil.rmtree("run")
    config = toy_config(output_dir="began")
    config.model.path, config.model.lora = "base", LoraConfig(rank=2)
    train(config)
    config = toy_config(rewards=rewards())
    config.model.path, config.model.adapter = "base", "began/model"
    for stage in ("prepare", "reference", "cluster", "reward", "weigh"):
        stages_done(config, only=stage)
    check_as_in_the_run(scored(WEIGHTED))


def test_an_adapter_is_in_the_form_of_peft_without_the_place_of_its_base(tuned) -> None:
    folder = FOLDER / "adapters/fold-1"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    base = AutoModelForCausalLM.from_pretrained("run/prepared/tiny", trust_remote_code=False)
    adapted = PeftModel.from_pretrained(base, folder)
    saved, found = load_file(folder / "adapter_model.safetensors"), get_peft_model_state_dict(adapted)
    assert saved.keys() == found.keys()
    assert all(np.array_equal(saved[name], found[name].numpy()) for name in saved)
    assert any(values.any() for name, values in saved.items() if "lora_B" in name)


def test_a_reward_model_without_adapters_has_the_format_of_before(copied) -> None:
    record = load_record(FOLDER / "reward_model.json")
    assert record["format"] == 1 and "adapters" not in record and not (FOLDER / "adapters").exists()


def test_a_loaded_reward_model_is_saved_with_its_adapters(tuned) -> None:
    model = RewardModel.load(FOLDER)
    model.save(Path("again"))
    for path in (path for path in FOLDER.rglob("*") if path.is_file() and path.name != "reward_model.json"):
        assert (Path("again") / path.relative_to(FOLDER)).read_bytes() == path.read_bytes()
    again = dataclasses.replace(model, record=load_record(Path("again/reward_model.json")))
    assert again.record["adapters"] == model.record["adapters"] and again.record["format"] == 3


def flip(name: str) -> Callable[[], None]:
    def damage() -> None:
        path = FOLDER / "adapters/fold-1" / name
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        flip("adapter_model.safetensors"),
        flip("adapter_config.json"),
        lambda: (FOLDER / "adapters/fold-0/adapter_model.safetensors").unlink(),
        lambda: shutil.rmtree(FOLDER / "adapters"),
        lambda: change(adapters=5),
        lambda: change(adapters=[["a"]]),
    ],
    ids=["weights", "settings", "weights gone", "all gone", "a number", "a list"],
)
def test_damaged_adapters_are_refused_before_the_language_model_is_loaded(tuned, damage) -> None:
    damage()
    with pytest.raises(ValueError, match=r"The reward model in .*reward_model is damaged: copy it again, or make it"):
        RewardModel.load(FOLDER)


def change(**values: object) -> None:
    path = FOLDER / "reward_model.json"
    save_record(path, load_record(path) | values)


@pytest.mark.parametrize("lost", [True, False], ids=["gone", "of another shape"])
def test_an_adapter_that_is_not_what_was_loaded_is_refused_when_it_is_read(tuned, lost) -> None:
    model, path = RewardModel.load(FOLDER), FOLDER / "adapters/fold-2/adapter_model.safetensors"
    path.unlink()
    if not lost:
        save_tensors(path, {"base_model.model.lm_head.lora_A.weight": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=r"The reward model in .*reward_model is damaged: copy it again, or make it"):
        model.score(["say red\n"], ["red"], device="cpu")
