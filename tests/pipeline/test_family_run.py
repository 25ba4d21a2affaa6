"""Runs with a family of reward models, and with the forward KL on samples of the reference."""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_cases import (
    DATA,
    WORDS,
    Row,
    losses,
    read_jsonl,
    refused_in_a_sentence,
    stages_done,
    toy_config,
    write_jsonl,
)
from safetensors.numpy import load_file

from iwpo_fast.cli import main
from iwpo_fast.config import (
    CandidateConfig,
    DataConfig,
    FamilyConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PlanConfig,
    ReferenceSyncConfig,
    RewardConfig,
    RunConfig,
    WeightConfig,
)
from iwpo_fast.config_checks import check_config
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import reference
from iwpo_fast.planning.setting import Setting
from iwpo_fast.recipe_shelf import SHELF
from iwpo_fast.rewards.reward_model import RewardModel

RECIPE = str(SHELF / "edpo_family_ultrafeedback.yaml")
WEIGHTED = "run/weights/train.jsonl"
FAMILY = FamilyConfig(rates=[0.2, "natural", 0.8], subsets=1)
SAMPLES = CandidateConfig(per_prompt=4, max_new_tokens=80, tokens_per_batch=800)
E_DPO = ObjectiveConfig("e_dpo", params={"gamma": 0.5})


def rows_of_lengths(prompts: int = 50) -> list[Row]:
    """One pair or two to each prompt, of responses of two to eight words."""
    draw = random.Random(0)
    rows = []
    for i in range(prompts):
        said = [" ".join(draw.choices(WORDS, k=draw.randint(2, 8))) for _ in range(3)]
        prompt = f"say {i}: {' '.join(draw.choices(WORDS, k=3))}\n"
        rows += [{"prompt": prompt, "chosen": said[0], "rejected": other} for other in said[1 : 2 + i % 2]]
    return rows


def config(**parts: Any) -> RunConfig:
    """Completions of the tiny model end with the probability of one token in 320, so they may be long."""
    settings: dict[str, Any] = {
        "data": DataConfig(path=DATA, eval_fraction=0.2, max_length=256, truncation="drop"),
        "objective": E_DPO,
        "weights": WeightConfig(forward_kl="samples"),
        "candidates": SAMPLES,
        "rewards": RewardConfig(heads="linear", family=FAMILY),
        "optim": OptimConfig(lr=1e-3, pairs_per_step=1000, epochs=3, tokens_per_batch=2048),
    }
    return toy_config(**(settings | parts))


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a family and samples; to be read only."""
    place = tmp_path_factory.mktemp("family")
    run, real = [], reference.flat_responses

    def recorded(found: Responses, rows: np.ndarray) -> Any:
        run.extend((found.prompts[found.prompt_of[row]].tolist(), found.completions[row].tolist()) for row in rows)
        return real(found, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(reference, "flat_responses", recorded)
        write_jsonl(DATA, rows_of_lengths())
        stages_done(config())
    (place / "responses.json").write_text(json.dumps(run))
    return place


@pytest.mark.slow
def test_every_member_has_scores_and_a_record(sampled: Path) -> None:
    report = json.loads((sampled / "run/rewards/report.json").read_text())
    result = json.loads((sampled / "run/manifest.json").read_text())["stages"]["reward"]["result"]
    assert result["family"] == report["family"]
    members = report["family"]["members"]
    assert [(row["rate"], row["share"]) for row in members] == [(0.2, None), (None, None), (0.8, None), (None, 0.8)]
    scores = load_file(sampled / "run/rewards/rewards.safetensors")["members_calibrated"]
    pairs = [row for row in read_jsonl(sampled / WEIGHTED) if "chosen" in row]
    assert scores.shape[1] == len(members) == len(pairs[0]["scores_chosen"])
    gaps = np.array([np.subtract(row["scores_chosen"], row["scores_rejected"]) for row in pairs])
    assert ((gaps > 0).mean(axis=0) + (gaps == 0).mean(axis=0) / 2).tolist() == pytest.approx(
        [row["accuracy"] for row in members]
    )
    model = RewardModel.load(sampled / "run/rewards/reward_model")
    assert model.heads.members == 4 and model.report["family"] == report["family"]
    page = (sampled / "run/report.html").read_text()
    assert "rate 0.2" in page and "80% of prompts" in page and "correlation with length" in page


@pytest.mark.slow
def test_samples_are_what_the_reference_ended_and_weigh_as_their_pairs(sampled: Path) -> None:
    drawn = defaultdict[str, dict[str, int]](dict)
    prepared = read_jsonl(sampled / "run/prepared/train.jsonl")
    for record in read_jsonl(sampled / "run/samples/candidates.jsonl"):
        if record["ended"]:
            drawn[prepared[record["row"]]["prompt"]][record["completion"]] = record["draws"]
    rows = read_jsonl(sampled / WEIGHTED)
    alone, pairs = ([row for row in rows if ("completion" in row) == single] for single in (True, False))
    assert rows == [*pairs, *alone] and alone
    of_prompt = defaultdict[str, float](float)
    for row in pairs:
        of_prompt[row["prompt"]] += row["weight"]
    covered = sum(weight for prompt, weight in of_prompt.items() if prompt in drawn)
    expected = {
        (prompt, text): len(pairs) / covered * of_prompt[prompt] * draws / sum(said.values())
        for prompt, said in drawn.items()
        for text, draws in said.items()
    }
    assert {(row["prompt"], row["completion"]) for row in alone} == set(expected)
    for row in alone:
        assert row["label"] is True and "score_chosen" not in row and "scores_chosen" not in row
        assert row["weight"] == pytest.approx(expected[row["prompt"], row["completion"]])
    assert sum(row["weight"] for row in alone) == pytest.approx(sum(row["weight"] for row in pairs))


@pytest.mark.slow
def test_training_takes_the_least_error_of_pairs_and_the_log_loss_of_samples(sampled: Path) -> None:
    """Every step sees all rows. In the first one margins are 0, and so is the KL, whatever it is taken on."""
    pairs = [row for row in read_jsonl(sampled / WEIGHTED) if "chosen" in row]
    gaps = np.array([np.subtract(row["scores_chosen"], row["scores_rejected"]) for row in pairs])
    first, *others = losses(sampled / "run/train")
    assert first == pytest.approx((gaps**2).min(axis=1).mean(), rel=1e-4)
    assert len(others) == 2 and others[1] < others[0] < 0  # the samples have become likelier
    metrics = [line for line in read_jsonl(sampled / "run/train/metrics.jsonl") if "rewards/accuracies" in line]
    assert metrics[0]["rewards/accuracies"] == 0.5


@pytest.mark.slow
def test_the_reference_runs_every_response_once_samples_among_them(sampled: Path) -> None:
    run = [repr(response) for response in json.loads((sampled / "responses.json").read_text())]
    assert len(set(run)) == len(run) > 0


@pytest.mark.slow
def test_the_tokens_of_a_training_with_samples_are_planned(sampled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each row once, a sample without another completion."""
    monkeypatch.chdir(sampled)
    rows = read_jsonl(sampled / WEIGHTED)
    drawn = CandidateConfig(per_prompt=2, max_new_tokens=80)
    setting = Setting.of(replace(config(candidates=drawn), plan=PlanConfig(on="h100"), dry_run=True))
    pairs = sum("chosen" in row for row in rows)
    prompts = len({row["prompt"] for row in rows if "chosen" in row})
    assert setting.trained.size == pairs + 2 * prompts
    alone = setting.trained.tokens("flat")[pairs:]
    prompt = setting.run_once.prompts.lengths[setting.trained.responses.prompt_of[setting.trained.chosen[pairs:]]]
    assert (alone == prompt + setting.drawn_tokens).all()
    assert setting.trained.tokens("shared")[pairs:].tolist() == alone.tolist()


@pytest.mark.slow
def test_another_family_does_the_rewards_again_and_no_stage_before(place: Path, sampled: Path) -> None:
    shutil.copytree(sampled, place, dirs_exist_ok=True)
    assert stages_done(config()) == []
    changed = config(rewards=RewardConfig(heads="linear", family=FamilyConfig(rates=[0.2, 0.8])))
    assert stages_done(changed) == ["reward", "weigh", "train", "evaluate"]
    pairs = config(weights=WeightConfig(), rewards=changed.rewards)
    assert stages_done(pairs, only="weigh") == ["weigh"]
    assert not any("completion" in row for row in read_jsonl(WEIGHTED))


@pytest.mark.slow
def test_the_recipe_runs_in_miniature(place: Path) -> None:
    write_jsonl(DATA, rows_of_lengths(80))
    settings = {
        **{"data.path": DATA, "data.max_length": 256, "data.as_chat": "false", "data.eval_fraction": 0.2},
        **{"data.truncation": "drop", "model.gradient_checkpointing": "none", "shard_over": 1},
        **{"model.path": "tiny", "model.tiny.vocab_size": 320, "model.tiny.hidden_size": 32, "model.tiny.layers": 1},
        **{"model.tiny.heads": 2, "rewards.folds": 2, "optim.max_steps": 2, "optim.pairs_per_step": 8},
        **{"candidates.max_new_tokens": 80, "device": "cpu", "output_dir": "run"},
    }
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    assert main(["run", "--config", RECIPE, *flags]) == 0
    rows = read_jsonl(WEIGHTED)
    assert len(rows[0]["scores_chosen"]) == 5 and any("completion" in row for row in rows)
    assert Path("run/train/model/model.safetensors").exists()


@pytest.mark.slow
def test_the_recipe_is_planned_without_a_network(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", RECIPE, "--dry_run", "true", "--plan.on", "h100", "--plan.gpus", "8"]) == 0
    said = capsys.readouterr().out
    assert "heads: about" in said
    assert "188,064 pairs" in said  # a pair and two samples for each of 62,688 prompts


def test_rates_that_the_data_cannot_give_are_refused_before_the_first_stage(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--rewards.family.rates", "[0.2, 0.8]", "--rewards.folds", "1"]
    refused_in_a_sentence(flags, "rewards.family.rates names 0.2, and of the pairs that some heads are shown", capsys)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (
            {"objective": ObjectiveConfig("d_dpo")},
            "objective.name is d_dpo, which has no forward KL: set",
        ),
        ({"objective": ObjectiveConfig("e_dpo", params={"gamma": 0})}, "gamma of the objective e_dpo is 0"),
        ({"candidates": CandidateConfig()}, "candidates.per_prompt is 0, so that none are drawn"),
        ({"candidates": replace(SAMPLES, top_p=0.9)}, "candidates.top_p is 0.9, which draws from another"),
        ({"candidates": replace(SAMPLES, temperature=2.0)}, "candidates.temperature is 2.0"),
        ({"model": ModelConfig(path="a", reference="b")}, "model.reference is set, but what is drawn is of the policy"),
        ({"reference_sync": ReferenceSyncConfig()}, "reference_sync is set"),
    ],
)
def test_samples_that_are_not_of_the_reference_or_unread_are_refused(parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        check_config(config(**parts))
    assert str(error.value).startswith("weights.forward_kl is samples and ") and sentence in str(error.value)
