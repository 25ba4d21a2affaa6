"""A policy that learns rewards by a head of its own: its training, and what scores texts afterwards."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from killed_runs import kill_during_training, run_killed
from ranks import run_on_ranks
from toy_pairs import write_pairs

from iwpo_fast.cli import main
from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LoraConfig,
    ObjectiveConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from iwpo_fast.config_checks import check_config
from iwpo_fast.files import load_record, load_tensors, save_record
from iwpo_fast.rewards.own_reward import OwnReward
from iwpo_fast.training import train

DRDO = ObjectiveConfig("drdo", reward_head_lr=1e-2)
ROWS = 40


@pytest.fixture
def scored(tmp_path: Path) -> DataConfig:
    """A higher score for each word less of the completion."""
    path = write_pairs(tmp_path / "plain.jsonl", rows=ROWS)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path = tmp_path / "scored.jsonl"
    scores = {f"score_{side}": [-float(len(row[side].split())) for row in rows] for side in ("chosen", "rejected")}
    write_pairs(path, rows=ROWS, **scores)
    return DataConfig(path=str(path), eval_fraction=0.2, cache_dir=str(tmp_path / "cache"))


def logged(config: TrainConfig, key: str) -> list[float]:
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [metrics[key] for metrics in map(json.loads, lines) if key in metrics]


def tensors(config: TrainConfig) -> dict[str, bytes]:
    folder = Path(config.output_dir) / "model"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.safetensors")}


def held_out(data: DataConfig) -> list[dict[str, str]]:
    """The rows that are held out."""
    from iwpo_fast.data import read_rows

    _, rows = read_rows(data)
    assert rows is not None
    sides = zip(rows.prompt, rows.chosen, rows.rejected, strict=True)
    return [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in sides]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, dropout=0.1)], ids=["whole", "adapter"])
def test_a_killed_run_ends_in_the_same_head_and_model_bitwise(config, scored, tmp_path, lora) -> None:
    parts = {"data": scored, "objective": DRDO, "model": dataclasses.replace(config().model, lora=lora)}
    whole = config(**parts, output_dir=str(tmp_path / "whole"))
    killed = config(**parts, output_dir=str(tmp_path / "killed"))
    train(whole)
    run_killed(killed, kill_during_training, tmp_path)
    train(killed)
    assert tensors(killed) == tensors(whole)
    assert "reward_head/head.safetensors" in tensors(whole)
    assert logged(killed, "loss") == logged(whole, "loss")


@pytest.mark.slow
def test_the_student_learns_the_gaps_of_the_oracle_and_scores_texts_as_in_training(
    config, scored, tmp_path, capsys
) -> None:
    optim = OptimConfig(lr=3e-3, pairs_per_step=8, max_steps=60, epochs=40)
    settings = config(data=scored, objective=DRDO, optim=optim, checkpoint=CheckpointConfig(every=None))
    train(settings)
    losses = logged(settings, "loss")
    assert np.mean(losses[-5:]) < 0.3 * losses[0]
    rows = held_out(scored)
    margins = load_tensors(sorted((tmp_path / "run" / "held_out").iterdir())[-1])["margin"]
    student = OwnReward.load(tmp_path / "run", device="cpu")
    chosen, rejected = (
        student.score([row["prompt"] for row in rows], [row[side] for row in rows]) for side in ("chosen", "rejected")
    )
    np.testing.assert_allclose(chosen - rejected, margins, atol=1e-4)

    given, output = tmp_path / "given.jsonl", tmp_path / "out.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["--reward_model", str(tmp_path / "run"), "--data.path", str(given), "--device", "cpu"]
    assert main(["score", *command, "--output", str(output)]) == 0
    written = [json.loads(line) for line in output.read_text().splitlines()]
    np.testing.assert_allclose([row["score_chosen"] for row in written], chosen, atol=1e-4)
    assert {row["spread_chosen"] for row in written} == {row["cluster"] for row in written} == {None}
    flags = ["--model", str(tmp_path / "run"), "--answers.per_prompt", "0", "--max_length", "64"]
    assert main(["evaluate", *command, *flags, "--output", str(tmp_path / "eval.json")]) == 0
    assert "held_out" in json.loads((tmp_path / "eval.json").read_text())
    assert main(["score", *command, "--output", str(output), "--language_model", "elsewhere"]) == 2
    assert "is a policy with a reward head, which reads its own hidden states" in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapter_scores_by_its_head_on_its_base(config, scored, tmp_path) -> None:
    first = config(data=scored, output_dir=str(tmp_path / "base"))
    train(first)
    base = str(tmp_path / "base" / "model")
    model = dataclasses.replace(first.model, path=base, lora=LoraConfig(rank=4))
    settings = config(data=scored, objective=DRDO, model=model, output_dir=str(tmp_path / "adapter"))
    train(settings)
    rows, student = held_out(scored), OwnReward.load(tmp_path / "adapter", device="cpu")
    margins = load_tensors(sorted((tmp_path / "adapter" / "held_out").iterdir())[-1])["margin"]
    chosen, rejected = (
        student.score([r["prompt"] for r in rows], [r[s] for r in rows]) for s in ("chosen", "rejected")
    )
    np.testing.assert_allclose(chosen - rejected, margins, atol=1e-4)
    assert np.abs(margins).max() > 0
    merged = str(tmp_path / "merged")
    assert main(["merge", "--model", str(tmp_path / "adapter"), "--output", merged, "--dtype", "float32"]) == 0
    again = OwnReward.load(merged, device="cpu").score([r["prompt"] for r in rows], [r["chosen"] for r in rows])
    np.testing.assert_allclose(again, chosen, atol=1e-4)
    further = dataclasses.replace(model, lora=None, adapter=str(tmp_path / "adapter"))
    train(config(data=scored, objective=DRDO, model=further, output_dir=str(tmp_path / "further")))
    began = load_tensors(min((tmp_path / "further" / "held_out").iterdir()))["margin"]
    np.testing.assert_allclose(began, margins, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["recomputed", "padded", "with weights of tokens"])
def test_losses_do_not_depend_on_how_they_are_computed(config, scored, tmp_path, how) -> None:
    name = {"drdo": 1.0, "wpo": 0.5} if how == "with weights of tokens" else "drdo"
    objective = ObjectiveConfig(name, reward_head_lr=1e-2)
    changes = {"recomputed": {"gradient_checkpointing": "full"}, "padded": {"batch_layout": "padded"}}.get(how, {})
    runs = []
    for options, pairs in (({}, 8), (changes, 3)):
        settings = config(
            data=scored,
            objective=objective,
            model=dataclasses.replace(config().model, **options),
            optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=6, epochs=4, max_pairs_per_batch=pairs),
            output_dir=str(tmp_path / f"run-{pairs}"),
        )
        train(settings)
        runs.append(logged(settings, "loss") + logged(settings, "grad_norm") + logged(settings, "rewards/margins"))
    assert runs[1] == pytest.approx(runs[0], rel=2e-4, abs=1e-5)


def train_by_command(recipe: Path) -> int:
    return main(["train", "--config", str(recipe)])


@pytest.mark.slow
def test_two_processes_train_the_head_that_one_does(config, scored, tmp_path) -> None:
    one = config(data=scored, objective=DRDO, output_dir=str(tmp_path / "one"))
    two = config(data=scored, objective=DRDO, output_dir=str(tmp_path / "two"))
    train(one)
    recipe = tmp_path / "two.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(two)))))
    assert run_on_ranks(2, train_by_command, recipe) == [0, 0]
    assert logged(two, "loss") == pytest.approx(logged(one, "loss"), rel=2e-5)
    heads = [load_tensors(tmp_path / name / "model" / "reward_head" / "head.safetensors") for name in ("one", "two")]
    np.testing.assert_allclose(heads[1]["weight"], heads[0]["weight"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_of_the_loss_that_once_had_the_name_is_not_gone_on_with(config, scored, tmp_path) -> None:
    settings = config(data=scored, objective=ObjectiveConfig("drdo"))
    train(settings)
    path = tmp_path / "run" / "run.json"
    record = load_record(path)
    assert record["settings"].pop("objective.own_reward").startswith("hidden state at the last token")
    save_record(path, record)
    with pytest.raises(ValueError, match=r"holds a run of another configuration, objective\.own_reward="):
        train(settings)


@pytest.mark.parametrize("setting", [{"shard_over": "all"}, {"shard_over": 2}, {"context_parallel": 2}], ids=str)
def test_processes_that_share_a_model_or_a_sequence_are_refused(config, setting) -> None:
    (name,) = setting
    with pytest.raises(
        ValueError, match=rf"{name} is .* and the objective drdo trains a reward head, .*: set {name} to 1"
    ):
        check_config(config(objective=ObjectiveConfig({"sft": 1.0, "drdo": 1.0}), **setting))


def test_a_rate_of_a_head_that_is_not_trained_is_refused(config) -> None:
    with pytest.raises(ValueError, match=r"reward_head_lr is 0\.1 but simpo trains no reward head: leave it out"):
        check_config(config(objective=ObjectiveConfig("simpo", reward_head_lr=0.1)))


@pytest.mark.parametrize("part", [{"reference_sync": {}}, {"model": "other"}], ids=["moving", "another"])
def test_a_reference_is_refused(config, part) -> None:
    from iwpo_fast.config import ReferenceSyncConfig

    given = {"reference_sync": ReferenceSyncConfig()} if "reference_sync" in part else {}
    model = dataclasses.replace(config().model, reference="other") if "model" in part else config().model
    with pytest.raises(ValueError, match="the objective drdo reads no reference: leave"):
        check_config(config(objective=ObjectiveConfig("drdo"), model=model, **given))


def test_a_model_without_a_head_is_one_sentence(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no reward head: give a model that was trained with the objective drdo"):
        OwnReward.load(tmp_path, device="cpu")


def test_plain_settings_are_recorded_as_before() -> None:
    from iwpo_fast.later_settings import without_later

    settings = without_later(dataclasses.asdict(RunConfig(DataConfig("x"))))
    assert "reward_head_lr" not in settings["objective"]
