"""SIGTERM and SIGUSR1 finish the step and save; Ctrl-C ends at once. The same command then comes to the same bytes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import HANG, Done, run_forked

from iwpo_fast import signals
from iwpo_fast.config import CheckpointConfig, LogConfig, ReferenceSyncConfig, TrainConfig
from iwpo_fast.training import loop, moving_reference, train
from iwpo_fast.training.checkpoint import checkpoints

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

GO_ON = "the same command goes on from"


def train_and_be_asked(recipe: Path, number: int, where: str, call: int) -> None:
    """`iwpo train` in this process, which sends itself a signal as the loop calls `where` for the `call`-th time."""
    from iwpo_fast.cli import main

    real, calls = getattr(loop, where), []

    def asking(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return real(*arguments, **keywords)

    setattr(loop, where, asking)
    sys.exit(main(["train", "--config", str(recipe)]))


@pytest.fixture
def ask(tmp_path) -> Callable[..., Done]:
    def run(settings: TrainConfig, number: int, where: str, call: int = 1) -> Done:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(settings)))))
        return run_forked(train_and_be_asked, recipe, number, where, call)

    return run


def results(settings: TrainConfig) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """The model, and every loss and held-out number."""
    folder = Path(settings.output_dir)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: v for key, v in line.items() if key in ("step", "loss") or "eval" in key} for line in lines]
    return {path.name: path.read_bytes() for path in (folder / "model").glob("*.safetensors")}, kept


@pytest.fixture
def settings(config) -> Callable[[str], TrainConfig]:
    """8 steps with an evaluation after every second."""
    return lambda name: config(
        log=LogConfig(every=1, eval_every=2), checkpoint=CheckpointConfig(every=100), output_dir=name
    )


@pytest.fixture(scope="module")
def made() -> list[Any]:
    return []


@pytest.fixture
def whole(made, settings, tmp_path) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """The results of a run without any signal. It is made once, because no path is part of them."""
    if not made:
        without = settings(str(tmp_path / "whole"))
        train(without)
        made.append(results(without))
    return made[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize(
    ("where", "call", "step"),
    [("train_step", 1, 1), ("train_step", 4, 4), ("evaluate", 2, 3), ("train_step", 8, 8), ("set_learning_rate", 5, 5)],
)
def test_the_step_is_finished_and_saved_and_the_run_goes_on_behind_it(
    settings, ask, whole, tmp_path, number, where, call, step
) -> None:
    """In the evaluation after step 2 it is the next step that is finished; after step 4 an evaluation is owed."""
    asked = settings(str(tmp_path / "asked"))
    done = ask(asked, number, where, call)
    assert done.exitcode == 143
    last = done.said.splitlines()[-1]
    assert last == f"iwpo: stopped by {number.name} after step {step}, which is saved; {GO_ON} there."
    folder = Path(asked.output_dir)
    assert [path.name for path in checkpoints(folder / "checkpoints")] == [f"step-{step:08d}"]
    assert not (folder / "model").exists() and not list(folder.rglob(".*"))
    train(asked)
    assert results(asked) == whole


@pytest.mark.slow
@pytest.mark.parametrize("where", ["tokenised", "load_policy", "tested", "open_folder", "summarise"])
def test_where_there_is_no_step_to_finish_it_ends_at_once(settings, ask, tmp_path, where) -> None:
    asked = settings(str(tmp_path / "asked"))
    done = ask(asked, signal.SIGTERM, where)
    assert done.exitcode == 143
    assert done.said.splitlines()[-1] == f"iwpo: stopped by SIGTERM; {GO_ON} what was saved before."
    assert "Traceback" not in done.said
    assert train(asked).steps == 8


@pytest.mark.slow
@pytest.mark.parametrize(("where", "call"), [("load_policy", 1), ("train_step", 4), ("evaluate", 3), ("summarise", 1)])
def test_an_interrupt_ends_in_one_line_and_the_run_goes_on(settings, ask, tmp_path, where, call) -> None:
    asked = settings(str(tmp_path / "asked"))
    done = ask(asked, signal.SIGINT, where, call)
    assert done.exitcode == 130
    assert done.said.splitlines()[-1] == "iwpo: interrupted; the same command goes on from the last checkpoint."
    assert "Traceback" not in done.said and "KeyboardInterrupt" not in done.said
    assert train(asked).steps == 8


HOOK = """
import os, signal, sys
left = {places!r}
def look(event, arguments):
    if event != "import" or arguments[0] not in left:
        return
    number = left.pop(arguments[0])
    child = os.fork()
    if child == 0:
        left.clear()
        sys.modules["iwpo_fast.signals"]._asked.process = os.getpid()  # it is the command from here on
        said = os.open(f"said-{{arguments[0]}}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.kill(os.getpid(), number)
    else:
        _, status = os.waitpid(child, 0)
        open(f"ended-{{arguments[0]}}.txt", "w").write(str(os.waitstatus_to_exitcode(status)))
sys.addaudithook(look)
"""
IMPORTED = [
    "iwpo_fast.cli",
    "iwpo_fast.config",
    "jsonargparse._typehints",
    "numpy",
    "numpy.dtypes",
    "torch",
    "torch._dynamo",
    "transformers",
    "iwpo_fast.training.loop",
    "transformers.generation",
]
SENT = {place: (signal.SIGINT, signal.SIGTERM)[number % 2] for number, place in enumerate(IMPORTED)}


@pytest.fixture(scope="module")
def importing(tmp_path_factory) -> Path:
    """Folder of a process that imports all, and of one that it forked before each of `IMPORTED`, which got a signal."""
    folder = tmp_path_factory.mktemp("importing")
    places = {place: int(number) for place, number in SENT.items()}
    (folder / "sitecustomize.py").write_text(HOOK.format(places=places))
    command = [sys.executable, "-m", "iwpo_fast", "train", "--data.path", "absent.jsonl"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 2 and "data.path absent.jsonl" in done.stderr, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("place", IMPORTED)
def test_a_signal_while_something_is_imported_is_one_line(importing, place) -> None:
    code, begin = {
        signal.SIGINT: (130, "iwpo: interrupted; "),
        signal.SIGTERM: (143, "iwpo: stopped by SIGTERM; "),
    }[SENT[place]]
    said = (importing / f"said-{place}.txt").read_text()
    assert (int((importing / f"ended-{place}.txt").read_text()), said.count("\n")) == (code, 1), said
    assert said.startswith(begin)


def test_a_process_that_a_library_forks_ends_by_a_signal_as_if_nothing_were_handled() -> None:
    with signals.handled():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


def test_outside_a_command_signals_are_left_to_python() -> None:
    before = [signal.getsignal(number) for number in (*signals.ASKING, signal.SIGINT)]
    with signals.handled():
        assert signal.getsignal(signal.SIGTERM) not in before
        with signals.handled():
            pass
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (*signals.ASKING, signal.SIGINT)] == before
    assert signals.asked() == 0


def test_a_signal_whose_exception_got_lost_is_found_later() -> None:
    with signals.handled():
        with pytest.raises(signals.Stopped):
            os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(signals.Stopped, match=r"^stopped by SIGUSR1; "):
            signals.check()


def moving_and_be_asked(recipe: Path, call: int) -> None:
    """`iwpo train` in this process, which sends itself SIGTERM as the `call`-th pass of the reference begins."""
    from iwpo_fast.cli import main

    real, calls = moving_reference.logps_as_it_is, []

    def asking(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **keywords)

    moving_reference.logps_as_it_is = asking
    sys.exit(main(["train", "--config", str(recipe)]))


@pytest.mark.slow
def test_the_pass_of_a_reference_that_moves_is_finished_and_so_is_the_step_behind_it(settings, tmp_path) -> None:
    moving = {"reference_sync": ReferenceSyncConfig(alpha=0.5, steps=3)}
    whole, part = (dataclasses.replace(settings(str(tmp_path / name)), **moving) for name in ("whole", "part"))
    train(whole)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(part)))))
    done = run_forked(moving_and_be_asked, recipe, 1)
    assert done.exitcode == signals.CODE and f"after step 4, which is saved; {GO_ON} there" in done.said
    train(part)
    assert results(part) == results(whole)
