"""The file of weighted pairs: what is in it, what becomes of columns that the data bring, and that it trains."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pipeline_cases import (
    DATA,
    TOO_LONG,
    losses,
    read_jsonl,
    stages_done,
    toy_config,
    toy_rows,
    write_jsonl,
)

from iwpo_fast.config import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    RewardConfig,
    RunConfig,
    TrainConfig,
    WeightConfig,
)
from iwpo_fast.training import train

TOOLS = [{"type": "function", "function": {"name": "paint", "parameters": {"type": "object", "properties": {}}}}]


def plain_training(config: RunConfig, data: str, output_dir: str) -> list[float]:
    """Losses of `iwpo train` on a file of the pipeline, with the model and settings of the pipeline."""
    train(
        TrainConfig(
            data=dataclasses.replace(config.data, path=data, eval_fraction=0.0),
            model=ModelConfig(path="run/prepared/tiny"),
            **{name: getattr(config, name) for name in ("objective", "optim", "log", "checkpoint", "device")},
            output_dir=output_dir,
        )
    )
    return losses(output_dir)


@pytest.mark.slow
def test_rows_have_the_columns_that_other_trainers_and_ours_read(finished) -> None:
    rows = read_jsonl(finished / "run/weights/train.jsonl")
    scores = {f"{kind}_{side}" for kind in ("score", "scores", "raw_score") for side in ("chosen", "rejected")}
    expected = {"prompt", "chosen", "rejected", "weight", "label_smoothing", "cluster"} | scores
    assert all(row.keys() == expected for row in rows)
    for row in rows:
        assert 0 <= row["label_smoothing"] < 0.75
        if max(map(abs, row["scores_chosen"])) < 5:  # no member was clipped
            assert row["score_chosen"] == pytest.approx(np.mean(row["scores_chosen"]), abs=1e-9)


def test_weights_have_mean_1_in_each_cluster(finished) -> None:
    rows = read_jsonl(finished / "run/weights/train.jsonl")
    clusters = {row["cluster"] for row in rows}
    assert len(clusters) > 1
    for cluster in clusters:
        assert np.mean([row["weight"] for row in rows if row["cluster"] == cluster]) == pytest.approx(1.0)
    assert len({row["weight"] for row in rows}) > len(rows) / 2


def test_pairs_that_do_not_fit_are_left_out_and_the_others_keep_their_order(finished) -> None:
    def texts(path: str) -> list[tuple[str, ...]]:
        return [(row["prompt"], row["chosen"], row["rejected"]) for row in read_jsonl(finished / path)]

    prepared, weighted = texts("run/prepared/train.jsonl"), texts("run/weights/train.jsonl")
    assert weighted == [row for row in prepared if not row[0].startswith("long")]
    held_out = texts("run/prepared/held_out.jsonl")
    assert len(prepared) + len(held_out) == len(read_jsonl(finished / DATA))
    assert not {row[0] for row in prepared} & {row[0] for row in held_out}
    left_out = sum(row[0].startswith("long") for row in prepared + held_out)
    assert left_out == TOO_LONG
    evaluation = json.loads((finished / "run/evaluation/evaluation.json").read_text())
    fitting = sum(not row[0].startswith("long") for row in held_out)
    assert evaluation.pop("all")["pairs"] == fitting == sum(row["pairs"] for row in evaluation.values())


def test_a_completion_in_several_pairs_of_its_prompt_has_one_score(finished) -> None:
    rows = read_jsonl(finished / "run/weights/train.jsonl")
    scores: dict[tuple[str, str], set[float]] = {}
    for row in rows:
        scores.setdefault((row["prompt"], row["chosen"]), set()).add(row["score_chosen"])
    pairs = Counter((row["prompt"], row["chosen"]) for row in rows)
    assert max(pairs.values()) == 3 and min(pairs.values()) == 1
    assert all(len(found) == 1 for found in scores.values())
    clusters: dict[str, set[int]] = {}
    for row in rows:
        clusters.setdefault(row["prompt"], set()).add(row["cluster"])
    assert all(len(found) == 1 for found in clusters.values())


@pytest.mark.slow
def test_training_on_the_file_alone_has_the_losses_of_the_train_stage(copied) -> None:
    alone = plain_training(toy_config(), "run/weights/train.jsonl", "alone")
    assert alone == losses("run/train")
    assert len(alone) == toy_config().optim.max_steps


@pytest.mark.slow
def test_without_weights_and_soft_labels_it_is_plain_training_bit_for_bit(copied) -> None:
    weighted = losses("run/train")
    config = toy_config(weights=WeightConfig(method="none", soft_labels=0.0))
    stages_done(config)
    assert plain_training(config, "run/prepared/train.jsonl", "plain") == losses("run/train") != weighted
    assert "label_smoothing" not in read_jsonl("run/weights/train.jsonl")[0]


@pytest.mark.slow
def test_an_objective_with_a_family_of_reward_models_reads_the_ensemble(copied) -> None:
    config = toy_config(objective=ObjectiveConfig(name="e_dpo"), weights=WeightConfig())
    stages_done(config)
    mean = plain_training(config, "run/weights/train.jsonl", "mean")
    config.data.columns = {"score_chosen": "scores_chosen", "score_rejected": "scores_rejected"}
    family = plain_training(config, "run/weights/train.jsonl", "family")
    assert family == losses("run/train") != mean


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "softened"),
    [
        ({}, True),
        ({"objective": ObjectiveConfig(name="aot")}, False),
        ({"objective": ObjectiveConfig(name="d_dpo")}, False),
        ({"objective": ObjectiveConfig(name="robust")}, False),
        ({"objective": ObjectiveConfig(label_smoothing=0.1)}, False),
        ({"rewards": RewardConfig(calibration=False)}, False),
    ],
)
def test_soft_labels_that_nobody_asked_for_are_where_there_is_room(copied, parts, softened) -> None:
    stages_done(toy_config(weights=WeightConfig(force=True), **parts))
    first = read_jsonl("run/weights/train.jsonl")[0]
    assert ("label_smoothing" in first) == softened
    made = json.loads(Path("run/manifest.json").read_text())["stages"]["weigh"]["result"]
    assert made["soft_labels"] == ("posterior" if softened else 0)
    assert (made["mean_label_smoothing"] > 0) == softened


@pytest.mark.parametrize("name", ["aot", "d_dpo"])
def test_soft_labels_that_an_objective_cannot_have_are_refused_at_once(place, name) -> None:
    with pytest.raises(ValueError, match=rf"weights\.soft_labels is 0\.3 but the objective {name} cannot smooth"):
        stages_done(toy_config(objective=ObjectiveConfig(name=name), weights=WeightConfig(soft_labels=0.3)))
    assert not Path("run").exists()


def test_posterior_labels_need_rewards_in_log_odds(place) -> None:
    config = toy_config(rewards=RewardConfig(calibration=False), weights=WeightConfig(soft_labels="posterior"))
    with pytest.raises(ValueError, match=r"weights\.soft_labels is posterior and rewards\.calibration is false"):
        stages_done(config)
    assert not Path("run").exists()


@pytest.mark.slow
def test_posterior_labels_are_written_and_follow_the_relative_variance(copied) -> None:
    flips, gaps = [], []
    for nu in (math.inf, 1.0, 0.25):
        weights = WeightConfig(method="none", soft_labels="posterior", relative_variance=nu)
        stages_done(toy_config(weights=weights), only="weigh")
        rows = read_jsonl("run/weights/train.jsonl")
        assert {row["weight"] for row in rows} == {1.0}
        flips.append(np.array([row["label_smoothing"] for row in rows]))
        gaps = np.array([row["score_chosen"] - row["score_rejected"] for row in rows])
    made = json.loads(Path("run/manifest.json").read_text())["stages"]["weigh"]["result"]
    assert made["soft_labels"] == "posterior"
    labels, mild, strong = flips
    assert np.all(labels == 0) and np.all((mild > 0) & (strong < 1))
    assert np.all((mild < strong)[gaps < 0])


@pytest.mark.parametrize(
    "soft_labels", [pytest.param("auto", marks=pytest.mark.slow), pytest.param(0.0, marks=pytest.mark.slow), 0.75]
)
def test_weights_multiply_those_of_the_data_and_soft_labels_replace_theirs(copied, soft_labels) -> None:
    weights = WeightConfig(tau=2.0, gamma=2.0, soft_labels=soft_labels, preferred_pairs=0)
    config = toy_config(weights=weights)
    config.data.path = "with_columns.jsonl"
    own = [row | {"weight": 0.5 + i % 2, "label_smoothing": 0.125} for i, row in enumerate(read_jsonl(DATA))]
    before = read_jsonl("run/weights/train.jsonl")
    write_jsonl(config.data.path, own)
    stages_done(config)
    given = {(row["prompt"], row["rejected"]): row["weight"] for row in own}
    after = read_jsonl("run/weights/train.jsonl")
    assert [row["weight"] for row in after] == pytest.approx(
        [row["weight"] * given[row["prompt"], row["rejected"]] for row in before]
    )
    expected = [row["label_smoothing"] for row in before] if soft_labels == 0.75 else [0.125] * len(before)
    assert [row["label_smoothing"] for row in after] == expected


@pytest.mark.slow
def test_conversations_keep_their_messages_tools_and_template_arguments(place) -> None:
    def conversation(row: dict[str, str], i: int) -> dict[str, object]:
        ask = [{"role": "system", "content": "Repeat."}, {"role": "user", "content": row["prompt"]}]
        answers = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        extra = {"tools": TOOLS} if i % 2 else {"chat_template_kwargs": {"mood": "calm", "tools_first": i}}
        return {"prompt": ask} | answers | extra

    rows = [conversation(row, i) for i, row in enumerate(toy_rows(30))]
    write_jsonl(DATA, rows)
    Path("template.jinja").write_text(
        "{% if tools %}{{ tools | tojson }}{% endif %}{{ mood }}"
        "{% for message in messages %}<|im_start|>{{ message['role'] }}<|im_sep|>{{ message['content'] }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
    )
    data = DataConfig(path=DATA, eval_fraction=0.2, chat_template="template.jinja")
    stages_done(toy_config(data=data))
    texts = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")
    weighted = [{name: row[name] for name in texts if name in row} for row in read_jsonl("run/weights/train.jsonl")]
    held_out = read_jsonl("run/prepared/held_out.jsonl")
    assert sorted(map(json.dumps, weighted + held_out)) == sorted(map(json.dumps, rows))
    alone = plain_training(toy_config(data=data), "run/weights/train.jsonl", "alone")
    assert alone == losses("run/train")


@pytest.mark.slow
@pytest.mark.parametrize("models", [1, 2])
def test_scores_of_the_data_can_be_the_rewards(place, models) -> None:
    def scored(row: dict[str, str]) -> dict[str, object]:
        right = {side: float(len(set(row["prompt"].split()) & set(row[side].split()))) for side in row}
        scores = {f"score_{side}": [right[side] + k for k in range(models)] for side in ("chosen", "rejected")}
        return row | (scores if models > 1 else {name: value[0] for name, value in scores.items()})

    write_jsonl(DATA, [scored(row) for row in toy_rows(40)])
    config = toy_config(rewards=RewardConfig(source="columns"))
    stages_done(config)
    given = {row["chosen"]: np.mean(row["score_chosen"]) for row in read_jsonl(DATA)}
    rows = read_jsonl("run/weights/train.jsonl")
    assert all(row["raw_score_chosen"] == given[row["chosen"]] for row in rows)
    assert all(len(row["scores_chosen"]) == models for row in rows)
    gaps = [[row[f"{kind}_chosen"] - row[f"{kind}_rejected"] for row in rows] for kind in ("score", "raw_score")]
    assert np.corrcoef(*gaps)[0, 1] > 0.8

    # Other scores of the same texts: what was computed from the texts alone stays.
    changed = [row | {"score_chosen": row["score_rejected"]} for row in read_jsonl(DATA)]
    write_jsonl(DATA, changed)
    with pytest.raises(
        ValueError, match=r"pairs\.jsonl, a completion .*different pairs, rows \d+ and \d+: give it one"
    ):
        stages_done(config)
    rows = [row | {"prompt": f"{row['prompt']} {i}"} for i, row in enumerate(changed)]
    del rows[3]["score_rejected"]
    write_jsonl(DATA, rows)
    config.data.eval_fraction = 0.0
    with pytest.raises(ValueError, match=r"In pairs\.jsonl, row 4 lacks a score although rewards\.source is columns"):
        stages_done(config)
    write_jsonl(DATA, toy_rows(40))
    with pytest.raises(ValueError, match=r"rewards\.source is columns but the data have no score_chosen"):
        stages_done(config)
