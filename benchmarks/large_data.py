"""Memory and time of preparing and of training on many pairs.

    python -m benchmarks.large_data --pairs 100000 200000 400000
    python -m benchmarks.large_data --pairs 5000000 --only read

For each number of pairs, of a kilobyte of text each, fresh processes read them, read and tokenise them, and train two
steps on the cached tokens. Memory is what no file backs: `RssAnon` of the process, and beside it `Pss_Anon` of those
that it forks. Pages of mapped files, which the system takes back when it needs room, count in `VmHWM` too. With three
numbers of pairs or more, a straight line through them says what 5 million take.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.files import save_json

GIB = 1 << 30
PAIRS = 5_000_000
TARGETS = {"read": 3 * GIB, "prepare": 3 * GIB, "train": GIB}
"""Bytes of memory that no file backs, for so many pairs; those of training beyond what it takes with few pairs."""

FEW = 1_000
SECONDS_BETWEEN = 0.05
LENGTHS = (300, 375, 375)
"""Characters of prompt, chosen and rejected."""

WORDS = 5_000
SAMPLE = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[100_000, 200_000, 400_000])
    parser.add_argument("--only", choices=[*TASKS], nargs="+", default=[*TASKS])
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--folder", type=Path, default=None, help="where pairs and tokens lie for a while")
    parser.add_argument("--output", type=Path, default=None, help="JSON file, by default benchmarks/results/...")
    flags = parser.parse_args()

    import torch

    from benchmarks.environment import describe, slug, versions

    measured: dict[str, dict[int, dict[str, float]]] = {name: {} for name in flags.only}
    with tempfile.TemporaryDirectory(dir=flags.folder) as made:
        folder = Path(made)
        make_model(folder, flags.vocab_size)
        for pairs in sorted({FEW, *flags.pairs}):
            write_pairs(folder / "pairs.jsonl", pairs)
            for name in flags.only:
                measured[name][pairs] = run(TASKS[name], folder)
                print(f"{name:8} {pairs:>10,} pairs: {json.dumps(measured[name][pairs])}", flush=True)
    facts = describe(torch.device("cpu"), None)
    result = {
        "date": date.today().isoformat(),
        "characters_per_pair": sum(LENGTHS),
        "cores": len(os.sched_getaffinity(0)),
        "measured": measured,
        "five_million_pairs": {name: at_target(name, of_task) for name, of_task in measured.items()},
        "environment": facts | {"versions": facts["versions"] | versions(("tokenizers", "pyarrow"))},
    }
    output = flags.output or Path(__file__).parent / "results" / f"large-data-{slug(facts)}.json"
    save_json(output, result)
    print(json.dumps(result["five_million_pairs"], indent=2))
    print(f"written to {output}")


def at_target(name: str, of_task: dict[int, dict[str, float]]) -> dict[str, Any]:
    """What so many pairs take, measured or by a straight line, and whether that meets the target."""
    few, large = of_task[FEW], {pairs: of_pairs for pairs, of_pairs in of_task.items() if pairs != FEW}
    is_measured = PAIRS in large
    if not is_measured and len(large) < 3:
        return {"how": "not measured"}
    found = large[PAIRS] if is_measured else {key: on_line(large, key) for key in few}
    memory = found["anonymous_bytes"] - (few["anonymous_bytes"] if name == "train" else 0)
    how = "measured" if is_measured else f"by a straight line through {', '.join(map(str, large))} pairs"
    return found | {"how": how, "target_bytes": TARGETS[name], "compared_bytes": memory, "met": memory < TARGETS[name]}


def on_line(large: dict[int, dict[str, float]], key: str) -> float:
    slope, start = np.polyfit([*large], [of_pairs[key] for of_pairs in large.values()], 1)
    return float(start + slope * PAIRS)


def make_model(folder: Path, vocab_size: int) -> None:
    """A tiny model with a byte-level BPE tokenizer that knows texts of this kind."""
    import torch

    from iwpo_fast.models import load_policy, load_tokenizer
    from iwpo_fast.world import World

    write_pairs(folder / "pairs.jsonl", SAMPLE)
    rows, _ = read_rows(DataConfig(path=str(folder / "pairs.jsonl"), eval_fraction=0.0))
    config = ModelConfig(path="tiny")
    config.tiny.vocab_size = vocab_size
    tokenizer = load_tokenizer(config, rows.texts())
    load_policy(config, tokenizer, World(0, 1, torch.device("cpu")), seed=0).save(folder / "model", tokenizer)


def write_pairs(path: Path, pairs: int) -> None:
    """Texts are pieces of one long text of random words, each prompt with its number."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, length))) for length in rng.integers(2, 9, WORDS)]
    frequency = 1 / np.arange(1, WORDS + 1)
    text = " ".join(words[i] for i in rng.choice(WORDS, 400_000, p=frequency / frequency.sum()))
    with open(path, "w", encoding="utf-8") as file:
        for number in range(pairs):
            starts = rng.integers(0, len(text) - max(LENGTHS), len(LENGTHS)).tolist()
            prompt, chosen, rejected = (text[at : at + n] for at, n in zip(starts, LENGTHS, strict=True))
            row = {"prompt": f"{number} {prompt}", "chosen": f" {chosen}", "rejected": f" {rejected}"}
            file.write(json.dumps(row) + "\n")


def read(folder: Path) -> None:
    read_rows(data_config(folder))


def prepare(folder: Path) -> None:
    from transformers import AutoTokenizer

    config = data_config(folder)
    tokenise(read_rows(config)[0], AutoTokenizer.from_pretrained(folder / "model"), config)


def train(folder: Path) -> None:
    """Two steps of an objective without a reference, whose pass over all pairs would take its own time."""
    from iwpo_fast.training import train as train_on

    with tempfile.TemporaryDirectory(dir=folder) as output:
        config = TrainConfig(
            model=ModelConfig(path=str(folder / "model")),
            data=data_config(folder),
            objective=ObjectiveConfig(name="simpo"),
            optim=OptimConfig(max_steps=2, pairs_per_step=8),
            output_dir=output,
            device="cpu",
        )
        train_on(config)


TASKS: dict[str, Callable[[Path], None]] = {"read": read, "prepare": prepare, "train": train}


def data_config(folder: Path) -> DataConfig:
    return replace(DataConfig(path=str(folder / "pairs.jsonl"), eval_fraction=0.0), cache_dir=str(folder / "cache"))


def run(task: Callable[[Path], None], folder: Path) -> dict[str, float]:
    """Bytes at the peak and seconds of a task in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_process, args=(task, folder, theirs))
    process.start()
    theirs.close()
    watch = Watch(process.pid or 0)
    try:
        answer: dict[str, float] = ours.recv()
    except EOFError:
        raise SystemExit("a process ended, most likely out of memory") from None
    finally:
        peaks = watch.stop()
        process.join()
    return answer | peaks


def _in_process(task: Callable[[Path], None], folder: Path, connection: Connection) -> None:
    start = time.perf_counter()
    task(folder)
    times = os.times()
    cpu = times.user + times.system + times.children_user + times.children_system
    connection.send(
        {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": cpu,
            "resident_peak_bytes": _status(os.getpid(), "VmHWM"),
        }
    )


class Watch:
    """Looks at the memory of a process and its children until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._peaks = {"anonymous_bytes": 0, "anonymous_with_children_bytes": 0}
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        self._done.set()
        self._thread.join()
        return self._peaks

    def _look(self) -> None:
        while not self._done.wait(SECONDS_BETWEEN):
            alone = _status(self._pid, "RssAnon")
            shares = alone + sum(_proportional(child) for child in _children(self._pid))
            for name, value in zip(self._peaks, (alone, shares), strict=True):
                self._peaks[name] = max(self._peaks[name], value)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _status(pid: int, field: str) -> int:
    return _kib(Path(f"/proc/{pid}/status"), field)


def _proportional(pid: int) -> int:
    """A page that processes share counts in parts."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss_Anon")


def _kib(path: Path, field: str) -> int:
    """0 where a process has ended."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


if __name__ == "__main__":
    main()
