"""A preference data set and a recipe that the whole pipeline goes through in seconds, and what it has done."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import os
import random
import re
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import HANG, leave_imports_to_themselves

from iwpo_fast.cli import main
from iwpo_fast.config import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RunConfig,
    TinyConfig,
    WeightConfig,
)
from iwpo_fast.pipeline import run

WORDS = ["red", "green", "blue", "warm", "cold", "small", "large", "quick", "slow", "calm"]
STAGES = ["prepare", "reference", "cluster", "reward", "weigh", "train", "evaluate"]
DATA = "pairs.jsonl"
TOO_LONG = 2
TINY = TinyConfig(vocab_size=320, hidden_size=32, layers=2, heads=2)
Row = dict[str, Any]


def toy_rows(prompts: int = 60, seed: int = 0) -> list[Row]:
    """Every other prompt has one pair, the others have three, whose four completions repeat less and less of it."""
    draw = random.Random(seed)
    rows = []
    for i in range(prompts):
        words = 3 + i % 4
        asked = draw.choices(WORDS, k=words)
        said = [" ".join(asked[:kept] + draw.choices(WORDS, k=words - kept)) for kept in (words, 2, 1, 0)]
        prompt = f"{('say', 'repeat', 'write')[i % 3]} {i}: {' '.join(asked)}\n"
        rejected = said[1:] if i % 2 else said[3:]
        rows += [{"prompt": prompt, "chosen": said[0], "rejected": text} for text in rejected]
    return rows


def rows_of_four(prompts: int = 40) -> list[Row]:
    """Four candidates to each prompt, scored by how much of it they repeat."""
    draw = random.Random(0)
    rows = []
    for i in range(prompts):
        asked = draw.sample(WORDS, k=4)
        said = [" ".join(asked[:kept] + draw.choices(WORDS, k=4 - kept)) for kept in (1, 4, 0, 2)]
        rows.append(
            {"prompt": f"say {i}: {' '.join(asked)}\n", "candidates": said, "candidate_scores": [1.0, 4.0, 0.0, 2.0]}
        )
    return rows


def write_jsonl(path: Path | str, rows: list[Row]) -> Path:
    path = Path(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path | str) -> list[Row]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_toy_data() -> None:
    """In the working folder: 120 pairs, of which `TOO_LONG` do not fit."""
    rows = toy_rows()
    for number in range(TOO_LONG):
        rows.insert(40 * number + 7, {"prompt": f"long {number}\n", "chosen": "blue " * 200, "rejected": "red"})
    write_jsonl(DATA, rows)


def toy_config(**parts: object) -> RunConfig:
    """A recipe with paths in the working folder; keywords replace whole parts of it."""
    settings: dict[str, object] = {
        "data": DataConfig(path=DATA, eval_fraction=0.2, max_length=96, truncation="drop"),
        "model": ModelConfig(tiny=copy.deepcopy(TINY)),
        "optim": OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=6, tokens_per_batch=1024),
        "log": LogConfig(every=1),
        "checkpoint": CheckpointConfig(every=2),
        "clusters": ClusterConfig(count=3, min_pairs=8, backend="sklearn"),
        "rewards": RewardConfig(heads="linear"),
        "weights": WeightConfig(form="strong"),
        "output_dir": "run",
        "device": "cpu",
    }
    return RunConfig(**(settings | parts))  # type: ignore[arg-type]


def stages_done(config: RunConfig, **options: Any) -> list[str]:
    """Run the pipeline; the stages that were not found done before."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        run(copy.deepcopy(config), **options)
    titles = re.findall(r"^\[\d/[78]\] (\w+): (.*)$", said.getvalue(), flags=re.MULTILINE)
    return [name for name, what in titles if not what.endswith("(done before)")]


def refused_in_a_sentence(flags: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`iwpo run` with these flags ends with code 2 and one line, which holds the sentence."""
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    write_jsonl(DATA, toy_rows(4))
    assert main(["run", "--data.path", DATA, "--output_dir", "run", "--device", "cpu", *flags]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("iwpo: error: ") and said.count("\n") == 1


def losses(folder: Path | str) -> list[float]:
    """The loss of every step, from the folder of a training."""
    return [line["loss"] for line in read_jsonl(Path(folder) / "metrics.jsonl") if "loss" in line]


def results(place: Path) -> dict[str, bytes]:
    """Every file of the pipeline at `place`, except caches, metrics, because they hold times, and the page of the run,
    which a stage alone does not write."""
    folder = place / "run"
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in sorted(found.items())
        if not name.startswith("cache/") and not name.endswith(("metrics.jsonl", "metrics.json", "report.html"))
    }


def run_and_be_killed(
    place: Path, target: str, call: int, config: RunConfig | None = None, environment: dict[str, str] | None = None
) -> None:
    """Run the pipeline in a process of its own that kills itself as `module:name` is called the `call`-th time."""
    os.chdir(place)
    module, name = target.split(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real, calls = getattr(owner, last), []

    def sabotaged(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)

    setattr(owner, last, sabotaged)
    run_aside(place, toy_config() if config is None else config, environment or {})


def run_aside(place: Path, config: RunConfig, environment: dict[str, str], **options: Any) -> None:
    """Run the pipeline in a process of its own, with its output and any error in `place`/said-RANK.txt."""
    os.chdir(place)
    os.environ |= environment
    torch.set_num_threads(1)
    leave_imports_to_themselves()
    with open(f"said-{environment.get('RANK', '0')}.txt", "a") as said, contextlib.redirect_stdout(said):
        try:
            run(config, **options)
        except BaseException:
            traceback.print_exc(file=said)
            raise


def job_of_two() -> list[dict[str, str]]:
    """Environment variables of the processes of a job."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [
        {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": str(rank)} for rank in range(2)
    ]


def run_in_two_processes(
    place: Path,
    processes: ForkServerContext,
    config: RunConfig,
    target: Callable[..., None] = run_aside,
    **options: Any,
) -> None:
    """Run the pipeline as one job, which has to succeed."""
    ranks = [
        processes.Process(target=target, args=(place, config, environment), kwargs=options)
        for environment in job_of_two()
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(HANG)
        process.kill()
    said = "".join(path.read_text() for path in place.glob("said-*.txt"))
    assert [process.exitcode for process in ranks] == [0, 0], said
