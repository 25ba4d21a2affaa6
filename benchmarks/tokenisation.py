"""Rows per second of our tokenisation against TRL's, which maps one row at a time.

    python -m benchmarks.tokenisation --data ../shared/data/hh_harmless_test.jsonl.gz

Both sides get the same rows, with their prompts already split off, and the same byte-level BPE tokenizer, trained here
on these rows. TRL's time is that of the trainer's own data preparation; ours includes hashing the rows and writing the
cache, which is empty each time. The two take turns, in a new order each round, and must give identical token ids.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from iwpo_fast.config import DataConfig
from iwpo_fast.data import Pairs, Rows, read_rows, tokenise
from iwpo_fast.files import save_json

TARGET = 1.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="preference pairs, as strings")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cores", type=int, default=2, help="cores that both sides may use")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--output", type=Path, default=None, help="JSON file, by default benchmarks/results/...")
    flags = parser.parse_args()
    # Before anything starts threads, which count the cores they may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.cores])

    import torch

    from benchmarks.environment import describe, slug, versions
    from iwpo_fast.models.tiny import train_tokenizer

    rows = read_rows(DataConfig(path=flags.data, eval_fraction=0.0))[0]
    tokenizer = train_tokenizer(rows.texts(), flags.vocab_size)
    with tempfile.TemporaryDirectory() as caches:
        sides: dict[str, Callable[[], Any]] = {
            "ours": our_side(rows, tokenizer, Path(caches)),
            "trl": trl_side(rows, tokenizer),
        }
        check_same_ids(sides["ours"](), sides["trl"]())
        seconds = interleaved(sides, flags.rounds)

    rates = {side: len(rows) / statistics.median(values) for side, values in seconds.items()}
    ratio = rates["ours"] / rates["trl"]
    per_round = sorted(theirs / ours for ours, theirs in zip(seconds["ours"], seconds["trl"], strict=True))
    facts = describe(torch.device("cpu"), None)
    result = {
        "date": date.today().isoformat(),
        "data": Path(flags.data).name,
        "rows": len(rows),
        "rounds": flags.rounds,
        "cores": len(os.sched_getaffinity(0)),
        "rows_per_second": rates,
        "ratio": ratio,
        "ratio_per_round": {"lowest": per_round[0], "highest": per_round[-1]},
        "target": TARGET,
        "met": ratio >= TARGET,
        "seconds": seconds,
        "environment": facts | {"versions": facts["versions"] | versions(("tokenizers", "datasets", "pyarrow"))},
    }
    name = f"tokenisation-{slug(facts)}.json"
    output = flags.output or Path(__file__).parent / "results" / name
    save_json(output, result)
    print(f"ours {rates['ours']:,.0f} rows/s, TRL {rates['trl']:,.0f} rows/s, identical ids")
    print(f"ratio of medians {ratio:.2f} (rounds {per_round[0]:.2f} to {per_round[-1]:.2f}), target {TARGET}")
    print(f"written to {output}")


def our_side(rows: Rows, tokenizer: Any, caches: Path) -> Callable[[], Pairs]:
    def run() -> Pairs:
        # A limit longer than any sequence, as TRL's preparation does not cut either, and no token is context there.
        folder = tempfile.mkdtemp(dir=caches)
        config = DataConfig(path=rows.source, cache_dir=folder, max_length=2**20, train_on="all")
        return tokenise(rows, tokenizer, config)[0]

    return run


def trl_side(rows: Rows, tokenizer: Any) -> Callable[[], Any]:
    import datasets
    from trl import DPOTrainer

    datasets.disable_caching()
    datasets.disable_progress_bars()
    source = datasets.Dataset.from_dict({name: getattr(rows, name) for name in ("prompt", "chosen", "rejected")})
    trainer: Any = SimpleNamespace(_tokenizer=tokenizer)
    arguments: Any = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")

    def run() -> Any:
        return DPOTrainer._prepare_dataset(trainer, source, tokenizer, arguments, "train")

    return run


def check_same_ids(ours: Pairs, theirs: Any) -> None:
    for name in ("prompt", "chosen", "rejected"):
        part = getattr(ours, name)
        if [part[row].tolist() for row in range(len(ours))] != list(theirs[f"{name}_ids"]):
            raise SystemExit(f"the token ids of {name} differ: nothing is worth timing")


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round."""
    from benchmarks.harness import in_turn

    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for order in in_turn([*sides], rounds, rounds):
        for side in order:
            start = time.perf_counter()
            sides[side]()
            seconds[side].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
