"""The best evaluation is what is saved, patience ends a run, and a run that is killed comes to the same bytes."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from iwpo_fast.cli import main
from iwpo_fast.config import CheckpointConfig, LogConfig, OptimConfig
from iwpo_fast.training import loop, train
from iwpo_fast.training.best import best_lines, check_evaluated, note_evaluation
from iwpo_fast.training.checkpoint import Best, TrainState
from iwpo_fast.training.held_out_margins import Margins
from iwpo_fast.training.job import Job

EVERY = LogConfig(every=2, eval_every=1)


def kept(config) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (Path(config.output_dir) / "checkpoints").iterdir())


@pytest.fixture
def evaluating(monkeypatch) -> Callable[[dict[int, float]], None]:
    """Have evaluations find these losses, by step."""

    def make(losses: dict[int, float]) -> None:
        def found(job: Job, state: TrainState) -> tuple[dict[str, float], Margins]:
            names = ("eval_rewards/accuracies", "eval_rewards/margins")
            metrics = {"eval_loss": losses[state.step]} | dict.fromkeys(names, 0.5)
            return metrics, Margins.empty(job.pairs, job.world.device)

        monkeypatch.setattr(loop, "evaluate", found)

    return make


LOSSES = {0: 0.1, 1: 0.7, 2: 0.5, 3: 0.6, 4: 0.6, 5: 0.5, 6: 0.4, 7: 0.3, 8: 0.2}


def test_the_model_of_the_best_evaluation_is_saved_and_the_run_ends_when_its_patience_does(
    config, evaluating, tmp_path, capsys
) -> None:
    evaluating(LOSSES)
    checkpoint = CheckpointConfig(every=None, keep=1, best="eval_loss", patience=3)
    settings = config(log=EVERY, checkpoint=checkpoint, output_dir=str(tmp_path / "early"))
    summary = train(settings)
    assert (summary.steps, summary.after["step"], summary.after["eval_loss"]) == (5, 2, 0.5)
    assert kept(settings) == [2, 5]  # the newest one, and the best, from which the model can be made again
    printed = capsys.readouterr().out
    assert "stopped after step 5, because 3 evaluations brought no better eval_loss" in printed
    assert "the model of step 2 is saved" in printed
    two = config(
        optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=8, epochs=4),
        checkpoint=CheckpointConfig(every=2, keep=9),
    )
    train(two)
    at_two = load_file(Path(two.output_dir) / "checkpoints/step-00000002/weights.safetensors")
    saved = load_file(Path(settings.output_dir) / "model/model.safetensors")
    assert all(at_two[name].equal(saved[name]) for name in saved)


def test_a_run_that_ends_in_the_middle_of_its_patience_goes_on_as_if_it_had_not(
    config, evaluating, tmp_path, monkeypatch
) -> None:
    evaluating(LOSSES)
    checkpoint = CheckpointConfig(every=None, keep=1, best="eval_loss", patience=3)
    whole = config(log=EVERY, checkpoint=checkpoint, output_dir=str(tmp_path / "whole"))
    train(whole)
    part = config(log=EVERY, checkpoint=checkpoint, output_dir=str(tmp_path / "part"))
    real, calls = loop.train_step, []

    def broken(*arguments) -> object:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", broken)
        with pytest.raises(KeyboardInterrupt):
            train(part)
    train(part)
    assert kept(part) == kept(whole) == [2, 5]
    for path in sorted(Path(whole.output_dir).rglob("*.safetensors")):
        assert (Path(part.output_dir) / path.relative_to(whole.output_dir)).read_bytes() == path.read_bytes()


def test_a_run_whose_newest_checkpoint_is_deleted_still_has_the_best_of_then(config, evaluating, tmp_path) -> None:
    settings = config(
        log=EVERY,
        checkpoint=CheckpointConfig(every=None, keep=2, best="eval_loss"),
        optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=4),
    )
    evaluating({0: 0.1, 1: 0.7, 2: 0.5, 3: 0.6, 4: 0.4})
    assert train(settings).after["step"] == 4
    assert kept(settings) == [2, 3, 4]  # the two newest, and the best as the older of them knew it
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000004")
    (tmp_path / "run/summary.json").unlink()
    evaluating({4: 0.9})  # as it may on a GPU that sums in another order
    assert train(settings).after["step"] == 2
    assert kept(settings) == [2, 3, 4]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("eval_loss", [0.5, 0.4, 0.4, 0.6], Best(2, 0.4, 2)),
        ("eval_rewards/accuracies", [0.5, 0.6, 0.4, 0.6], Best(2, 0.6, 2)),
        ("eval_rewards/margins", [math.nan, 0.1, math.nan], Best(2, 0.1, 1)),
    ],
)
def test_the_first_of_equals_is_the_best_and_what_is_no_number_is_never(metric, values, best) -> None:
    state = TrainState()
    config = CheckpointConfig(best=metric)
    note_evaluation(state, {metric: 0.0 if metric == "eval_loss" else 1.0}, config)  # before the first step
    assert state.best is None
    for state.step, value in enumerate(values, 1):
        note_evaluation(state, {metric: value}, config)
    assert state.best == best and not state.stopped_early
    assert TrainState.of(json.loads(json.dumps(state.record()))) == state
    assert best_lines(state, config) == [f"the model of step 2 is saved, which has the best {metric}: {best.value:.4f}"]


def test_records_of_other_runs_are_as_before() -> None:
    assert list(TrainState(step=3).record()) == ["step", "pairs", "tokens", "objective"]


@pytest.mark.parametrize(
    ("log", "checkpoint", "setting"),
    [
        (LogConfig(samples=2), CheckpointConfig(), "log.samples is 2"),
        (LogConfig(), CheckpointConfig(best="eval_loss"), "checkpoint.best is eval_loss"),
    ],
)
def test_what_needs_evaluations_needs_a_pair_that_was_held_out(config, log, checkpoint, setting) -> None:
    settings = config(log=log, checkpoint=checkpoint)
    check_evaluated(settings, [1], "p.jsonl")
    for held_out in ([], None):
        with pytest.raises(ValueError, match=rf"{setting}, but no pair of p\.jsonl is held out: raise"):
            check_evaluated(settings, held_out, "p.jsonl")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--checkpoint.patience", "2"], "checkpoint.patience is 2 and checkpoint.best is null"),
        (["--checkpoint.best", "eval_loss"], "log.eval_every is null, so there is one evaluation"),
        (
            ["--checkpoint.best", "eval_loss", "--log.eval_every", "1", "--data.eval_fraction", "0"],
            "checkpoint.best is eval_loss, but nothing is held out",
        ),
        (
            ["--checkpoint.best", "eval_loss", "--log.eval_every", "1", "--reference_sync.steps", "4"],
            "checkpoint.best is eval_loss and reference_sync is set, but evaluations on two sides of a move",
        ),
        (["--checkpoint.best", "eval_los"], "eval_loss"),
    ],
)
def test_what_cannot_be_the_best_is_one_sentence(config, tmp_path, capsys, flags, sentence) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config())))))
    assert main(["train", "--config", str(recipe), *flags]) == 2
    assert sentence in capsys.readouterr().err
