"""Callbacks see what the files of a run say, and may end it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ranks import run_on_ranks

from iwpo_fast.config import CheckpointConfig, LogConfig, TrainConfig
from iwpo_fast.training import Callback, Run, loop, train


class Notes(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []

    def on_begin(self, run: Run) -> None:
        self.seen.append(("begin", run.state.step))

    def on_step(self, run: Run, metrics) -> None:
        self.seen.append(("step", run.state.step, metrics["loss"]))

    def on_evaluation(self, run: Run, metrics) -> None:
        self.seen.append(("evaluation", run.state.step, metrics["eval_loss"]))

    def on_end(self, run: Run) -> None:
        self.seen.append(("end", run.state.step, (run.folder / "model/config.json").exists()))


class StopAtEvaluation(Callback):
    def on_evaluation(self, run: Run, metrics) -> None:
        if run.state.step:
            run.stop()


class StopAt(Callback):
    """Needs one of the functions alone."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run, metrics) -> None:
        if run.state.step == self.step:
            run.stop()


def lines(config) -> list[tuple]:
    logged = map(json.loads, (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines())
    return [
        ("step", m["step"], m["loss"]) if "loss" in m else ("evaluation", m["step"], m["eval_loss"]) for m in logged
    ]


def test_callbacks_are_told_what_the_metrics_file_says(config) -> None:
    notes, settings = Notes(), config(log=LogConfig(every=3, eval_every=4))
    train(settings, callbacks=[notes])
    assert notes.seen == [("begin", 0), *lines(settings), ("end", 8, True)]


def test_a_callback_ends_a_run_with_evaluation_checkpoint_and_model_and_it_stays_ended(config, monkeypatch) -> None:
    settings = config(checkpoint=CheckpointConfig(every=None))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "summarise", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(settings, callbacks=[StopAt(2)])
    assert lines(settings)[-1][:2] == ("evaluation", 2)
    monkeypatch.setattr(loop, "train_step", lambda *_: pytest.fail("the run had ended"))
    summary = train(settings)  # without the callback, because what it asked for is in the checkpoint
    assert summary.steps == 2
    assert summary.after["step"] == 2


def test_a_run_that_an_evaluation_ends_has_a_line_of_its_last_steps(config) -> None:
    settings = config(log=LogConfig(every=100, eval_every=3), checkpoint=CheckpointConfig(every=None))
    assert train(settings, callbacks=[StopAtEvaluation()]).steps == 3
    assert [line[:2] for line in lines(settings)] == [
        ("evaluation", 0),
        ("step", 1),
        ("step", 3),  # which looks at the gradients of the steps since the line before
        ("evaluation", 3),
    ]


def stopped_by_one(config: TrainConfig, rank: int) -> int:
    summary = train(config, callbacks=[StopAt(2)] if os.environ["RANK"] == str(rank) else [])
    assert summary is not None
    return summary.steps


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_callback_of_one_process_ends_all(config, rank) -> None:
    assert run_on_ranks(2, stopped_by_one, config(log=LogConfig(every=1, eval_every=3)), rank) == [2, 2]


class StopAtOnce(Callback):
    def on_begin(self, run: Run) -> None:
        run.stop()


def test_a_run_cannot_be_stopped_before_it_has_a_step(config) -> None:
    with pytest.raises(ValueError, match=r"on_begin of a callback has called run\.stop\(\), before there is a step"):
        train(config(), callbacks=[StopAtOnce()])
