"""A run goes on with the number of CPU threads that it began with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from iwpo_fast.config import TrainConfig
from iwpo_fast.files import load_record, save_record
from iwpo_fast.threads import NUMBER
from iwpo_fast.training import loop, train
from iwpo_fast.training.reproducible import threads_of_run

Make = Callable[..., TrainConfig]


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch has two threads, which nobody has asked for."""
    for name in NUMBER:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def interrupted(config: Make, two_threads: None, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run with two threads, which ended after its first checkpoint."""
    settings = config()
    calls: list[int] = []
    step = loop.train_step

    def stopped(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "train_step", stopped)
        train(settings)
    return settings


@pytest.mark.slow
def test_the_plan_prints_the_threads_and_the_run_keeps_them(
    config: Make, two_threads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config()
    train(dataclasses.replace(settings, optim=dataclasses.replace(settings.optim, max_steps=1)))
    assert "1 x cpu, 2 CPU threads, float32 compute" in capsys.readouterr().out
    assert json.loads((Path(settings.output_dir) / "run.json").read_text())["threads"] == 2


@pytest.mark.slow
def test_a_resumed_run_takes_its_own_number_and_gives_the_other_back(
    capsys: pytest.CaptureFixture[str], interrupted: TrainConfig
) -> None:
    torch.set_num_threads(1)
    train(interrupted)
    said = capsys.readouterr().out
    assert (
        "resuming from step 3; the run began with 2 CPU threads and keeps them; on this machine it would have 1" in said
    )
    assert said.count("1 x cpu, 2 CPU threads") == 2
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_a_number_of_the_user_goes_before_that_of_the_run_and_is_said(
    interrupted: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train(interrupted)
    assert "the run began with 2 CPU threads and goes on with the 1 that" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_recorded_before_threads_were_resume(interrupted: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(interrupted.output_dir) / "run.json"
    record = load_record(file)
    del record["threads"]
    save_record(file, record)
    train(interrupted)
    assert "resuming from step 3\n" in capsys.readouterr().out


@pytest.mark.parametrize("recorded", [None, 2])
def test_nothing_is_said_where_nothing_differs(recorded: int | None, two_threads: None) -> None:
    with threads_of_run(recorded) as difference:
        assert difference is None
        assert torch.get_num_threads() == 2
