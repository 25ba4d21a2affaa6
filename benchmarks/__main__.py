"""Operators against their peers: runs the whole table and writes one JSON, two plots and a Markdown table.

    python -m benchmarks                          # what there is: a GPU, else the CPU
    python -m benchmarks --device cpu             # about five minutes on two cores, two with --peers alone
    python -m benchmarks --quick                  # a tiny shape, to see that it works

Every variant is first checked against float32 PyTorch on its own inputs; one that is wrong is not timed. All variants
of a shape are then timed in turn, in a new order each round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.harness import Plan
from benchmarks.linear_token_logps.shapes import TINY
from benchmarks.operators import ALWAYS, measure_shape, memory_by_tokens, summary
from benchmarks.plot import HEAD, draw
from benchmarks.results import Results, common_options, results_of, target_table
from benchmarks.suite import SUITES, Shape, Suite, suite
from benchmarks.targets import head_targets, shape_table

Job = tuple[Suite, Shape]
PEERS = ("trl", "liger", "cce")
SWEPT = ("ours", "ours, recomputed", "naive, all tokens", "TRL chunked", "Liger fused DPO")
SWEPT_SEQUENCES = {"cpu": (2, 4), "cuda": (4, 8, 32)}  # beside the shape's own
SECONDS = {"cpu": 180, "cuda": 420}
ROUNDS = {"cpu": 5, "cuda": 10}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common_options(__doc__ or "", "cuda" if torch.cuda.is_available() else "cpu", PEERS, PEERS)
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--shapes", nargs="+", help="names; all by default, and a sweep of memory over tokens")
    parser.add_argument("--variants", nargs="+", help='labels, or keys such as "ours [frozen head]"; all by default')
    parser.add_argument("--without-memory", action="store_true", help="only right or wrong, and times")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Path:
    """Path of the JSON written."""
    options = arguments(argv)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    plan = Plan(
        device=device,
        libraries=(*ALWAYS, *options.peers),
        rounds=options.rounds or (2 if options.quick else ROUNDS[device.type]),
        threads=options.threads,
        labels=options.variants,
        measures_memory=not options.without_memory,
        deadline=time.monotonic() + (options.seconds or SECONDS[device.type]),
    )
    content = {"most_rounds": plan.rounds, "shapes_not_started": [], "memory_by_tokens": [], "records": []}
    results = results_of(options, "", content)
    jobs = _jobs(options, device.type)
    is_whole = options.shapes is None and not options.quick
    swept = next((job for job in jobs if job[0].name == HEAD and is_whole), None)
    for job in jobs:
        _measure(*job, plan, results, sweeps=job == swept)
    results.write()
    if results.targets:
        print(target_table(results.targets))
    written = ", ".join(str(file) for file in (results.path, *draw(results.path)))
    print(f"\nWrote {written} after {results.seconds:.0f} s.")
    return results.path


def _jobs(options: argparse.Namespace, device_type: str) -> list[Job]:
    """Suites with small problems first, as they take seconds; then the head's shapes, the most important first."""
    jobs: list[Job] = []
    for name in sorted(options.suites, key=lambda name: name == HEAD):
        measured = suite(name)
        chosen = [TINY] if options.quick else list(measured.shapes(device_type))
        if options.shapes is not None:
            chosen = [shape for shape in chosen if shape.name in options.shapes]
        jobs += [(measured, shape) for shape in chosen]
    return jobs


def _measure(measured: Suite, shape: Shape, plan: Plan, results: Results, sweeps: bool) -> None:
    """Measure and print one shape, if there is time to start it."""
    content = results.content
    if plan.is_over:
        content["shapes_not_started"].append(f"{measured.name}: {shape.name}")
        return
    records = measure_shape(measured, shape, plan)
    by_key = {record.key: record for record in records}
    content["records"] += [summary(record, by_key) for record in records]
    results.tables.append(shape_table(measured, shape, by_key))
    if measured.name == HEAD and shape != TINY:
        results.targets += head_targets(shape, by_key, plan.device.type)
    results.write()
    print(results.tables[-1], end="\n\n", flush=True)
    if sweeps and plan.measures_memory:
        sequences = SWEPT_SEQUENCES[plan.device.type]
        content["memory_by_tokens"] += memory_by_tokens(measured, records, sequences, SWEPT, plan)


if __name__ == "__main__":
    main()
