"""Seconds of reading and tokenising by this tree against another one, in fresh processes that take turns.

    git worktree add ../before COMMIT
    python -m benchmarks.tokenisation_before ../before --data ../shared/data/hh_harmless_test.jsonl.gz

Each process imports, tokenises a few rows, then reads and tokenises all with an empty cache; only that is timed. Rows
whose dialogues part before their last answer are left out, because older trees refuse them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from iwpo_fast.files import save_json

ROOT = Path(__file__).resolve().parents[1]
TIMED = """
import sys, tempfile, time
from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.models.tiny import train_tokenizer
from dataclasses import replace
with tempfile.TemporaryDirectory() as cache:
    config = DataConfig(path=sys.argv[1], eval_fraction=0.0, cache_dir=cache, max_length=512)
    rows = read_rows(replace(config, limit=200))[0]
    tokenizer = train_tokenizer(list(rows.texts()), 4096)
    tokenise(rows, tokenizer, config)
    start = time.perf_counter()
    pairs, _ = tokenise(read_rows(config)[0], tokenizer, config)
    print(time.perf_counter() - start, len(pairs), int(pairs.chosen.values.sum()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other tree")
    parser.add_argument("--data", required=True, help="preference pairs, as strings")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/tokenisation-before.json")
    flags = parser.parse_args()
    trees = {"before": flags.before.resolve(), "now": ROOT}
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    made = set()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pairs.jsonl"
        write_shared(flags.data, data)
        for _ in range(flags.rounds):
            for name in random.sample([*trees], len(trees)):
                taken, *ids = timed(trees[name], data)
                seconds[name].append(float(taken))
                made.add(tuple(ids))
    assert len(made) == 1, f"the trees make different tokens: {made}"
    ratios = [now / before for before, now in zip(seconds["before"], seconds["now"], strict=True)]
    result = {
        "date": date.today().isoformat(),
        "commits": {name: commit_of(tree) for name, tree in trees.items()},
        "pairs": int(next(iter(made))[0]),
        "cores": len(os.sched_getaffinity(0)),
        "seconds": seconds,
        "median_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio_now_to_before": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
    }
    save_json(flags.output, result)
    print(json.dumps(result, indent=2))


def write_shared(path: str, shared: Path) -> None:
    """The rows whose two dialogues are one up to their last answer."""
    with gzip.open(path, "rt", encoding="utf-8") as file, shared.open("w", encoding="utf-8") as kept:
        for line in file:
            row = json.loads(line)
            if len({row[side].rpartition("\n\nAssistant:")[0] for side in ("chosen", "rejected")}) == 1:
                kept.write(line)


def timed(tree: Path, data: Path) -> list[str]:
    """Seconds, pairs and a sum of token ids, of a process that imports the library from a tree."""
    env = os.environ | {"PYTHONPATH": f"{tree}:{tree / 'kernels'}"}
    command = [sys.executable, "-c", TIMED, str(data)]
    return subprocess.run(command, env=env, cwd=tree, check=True, capture_output=True, text=True).stdout.split()[-3:]


def commit_of(tree: Path) -> str:
    command = ["git", "-C", str(tree), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
