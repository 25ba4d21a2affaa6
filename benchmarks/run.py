"""Runs the whole table and writes one JSON, two plots and a Markdown table.

    python benchmarks/run.py                      # what there is: a GPU, else the CPU
    python benchmarks/run.py --device cpu         # under four minutes on two cores
    python benchmarks/run.py --quick              # a tiny shape, to see that it works
    python benchmarks/run.py --tune qwen3-8b-half # settings of our operator at one shape

Every variant is first checked against float32 PyTorch on its own inputs; one that is wrong is not timed. All variants
of a shape are then timed in turn, in a new order each round.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import report, tune
from benchmarks.environment import ROOT, describe, device_slug
from benchmarks.linear_token_logps.shapes import TINY
from benchmarks.peak_memory import SUITES, suite
from benchmarks.plot import draw
from benchmarks.suite import Shape, Suite
from benchmarks.table import Plan, measure_shape, memory_by_tokens, summary
from benchmarks.targets import Target, head_targets

PEERS = ("trl", "liger", "cce")
HEAD = "linear_token_logps"
SWEPT = ("ours", "ours, recomputed", "naive, all tokens", "TRL chunked, supervised tokens", "Liger fused DPO")
SWEPT_SEQUENCES = {"cpu": (2, 4, 8), "cuda": (4, 8, 16, 32)}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of iwpo_kernels against its peers.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--shapes", nargs="+", help="names of shapes; all by default")
    parser.add_argument("--quick", action="store_true", help="a tiny shape instead, two rounds, no sweep")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, help="samples per variant; 7 on a CPU and 20 on a GPU by default")
    parser.add_argument("--seconds", type=float, default=480, help="no new shape is started after this long")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch, on a CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--commit", help="where there is no git; so does $IWPO_COMMIT")
    parser.add_argument("--tune", metavar="SHAPE", help="sweep our operator's settings at this shape, and stop")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> Path | None:
    """Path of the JSON written, or None after `--tune`."""
    options = arguments(argv)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    rounds = options.rounds or (2 if options.quick else 7 if device.type == "cpu" else 20)
    plan = Plan(device, options.peers, rounds, options.threads)
    if options.tune:
        print(tune.sweep(suite(HEAD), options.tune, plan))
        return None
    started = time.monotonic()
    environment = describe(device, options.commit)
    records, targets, tables, skipped = _measure(options, plan, started)
    sweep = [] if options.quick or HEAD not in options.suites else _sweep(plan, options, started)
    result = {
        "schema": 1,
        "date": date.today().isoformat(),
        "seconds": round(time.monotonic() - started, 1),
        "rounds": rounds,
        "environment": environment,
        "shapes_not_started": skipped,
        "targets": [vars(target) | {"met": target.met} for target in targets],
        "memory_by_tokens": sweep,
        "records": records,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{device_slug(device)}-{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    markdown = "\n\n".join([*tables, report.target_table(targets)] if targets else tables)
    path.with_suffix(".md").write_text(markdown + "\n")
    print(f"\nWrote {path} and {', '.join(p.name for p in draw(path))} after {result['seconds']:.0f} s.")
    return path


def _measure(
    options: argparse.Namespace, plan: Plan, started: float
) -> tuple[list[dict[str, Any]], list[Target], list[str], list[str]]:
    """Summaries, targets, Markdown tables, and names of shapes for which no time was left."""
    summaries, targets, tables, skipped = [], [], [], []
    for name in options.suites:
        measured = suite(name)
        for shape in _shapes(measured, options, plan.device.type):
            if time.monotonic() - started > options.seconds:
                skipped.append(f"{name}: {shape.name}")
                continue
            records = measure_shape(measured, shape, plan)
            summaries += [summary(record, records) for record in records]
            tables.append(report.shape_table(measured, records))
            print(tables[-1], end="\n\n", flush=True)
            if name == HEAD and not options.quick:
                targets += head_targets(records, plan.device.type)
    if targets:
        print(report.target_table(targets), flush=True)
    return summaries, targets, tables, skipped


def _shapes(measured: Suite, options: argparse.Namespace, device_type: str) -> list[Shape]:
    if options.quick:
        return [TINY]
    return [s for s in measured.shapes(device_type) if options.shapes is None or s.name in options.shapes]


def _sweep(plan: Plan, options: argparse.Namespace, started: float) -> list[dict[str, Any]]:
    shapes = _shapes(suite(HEAD), options, plan.device.type)
    if not shapes or time.monotonic() - started > options.seconds:
        return []
    return memory_by_tokens(suite(HEAD), shapes[0], SWEPT_SEQUENCES[plan.device.type], SWEPT, plan)


if __name__ == "__main__":
    main()
