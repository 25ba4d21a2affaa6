"""Runs the whole table and writes one JSON, two plots and a Markdown table.

    python benchmarks/run.py                      # what there is: a GPU, else the CPU
    python benchmarks/run.py --device cpu         # about five minutes on two cores, two with --peers alone
    python benchmarks/run.py --quick              # a tiny shape, to see that it works

Every variant is first checked against float32 PyTorch on its own inputs; one that is wrong is not timed. All variants
of a shape are then timed in turn, in a new order each round.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import report
from benchmarks.environment import ROOT, describe, device_slug
from benchmarks.linear_token_logps.shapes import TINY
from benchmarks.peak_memory import SUITES, suite
from benchmarks.plot import draw
from benchmarks.results import HEAD, Results
from benchmarks.suite import Shape, Suite
from benchmarks.table import Plan, measure_shape, memory_by_tokens

Job = tuple[Suite, Shape]
PEERS = ("trl", "liger", "cce")
SWEPT = ("ours", "ours, recomputed", "naive, all tokens", "TRL chunked", "Liger fused DPO")
SWEPT_SEQUENCES = {"cpu": (2, 4), "cuda": (4, 8, 32)}  # beside the shape's own
SECONDS = {"cpu": 180, "cuda": 420}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of iwpo_kernels against its peers.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--shapes", nargs="+", help="names; all by default, and a sweep of memory over tokens")
    parser.add_argument("--quick", action="store_true", help="a tiny shape instead, two rounds, no sweep")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--variants", nargs="+", help='labels, or keys such as "ours [frozen head]"; all by default')
    parser.add_argument("--without-memory", action="store_true", help="only right or wrong, and times")
    parser.add_argument("--rounds", type=int, help="samples per variant; 5 on a CPU and 10 on a GPU by default")
    parser.add_argument("--seconds", type=float, help="no shape, and no round after the third, is started after that")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch, on a CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--commit", help="where there is no git; so does $IWPO_COMMIT")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> Path:
    """Path of the JSON written."""
    options = arguments(argv)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    rounds = options.rounds or (2 if options.quick else 5 if device.type == "cpu" else 10)
    started = time.monotonic()
    deadline = started + (options.seconds or SECONDS[device.type])
    plan = Plan(device, options.peers, rounds, options.threads, options.variants, not options.without_memory, deadline)
    path = options.out / f"{device_slug(device)}-{date.today().isoformat()}.json"
    results = Results(path, plan, describe(device, options.commit), started)
    jobs = _jobs(options, device.type)
    is_whole = options.shapes is None and not options.quick
    swept = next((job for job in jobs if job[0].name == HEAD and is_whole), None)
    for job in jobs:
        _measure(*job, results, sweeps=job == swept)
    results.write()
    if results.targets:
        print(report.target_table(results.targets))
    written = ", ".join(str(file) for file in (path, *draw(path)))
    print(f"\nWrote {written} after {results.seconds:.0f} s.")
    return path


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


def _measure(measured: Suite, shape: Shape, results: Results, sweeps: bool) -> None:
    """Measures and prints one shape, if there is time to start it."""
    plan = results.plan
    if plan.is_over:
        results.not_started.append(f"{measured.name}: {shape.name}")
        return
    records = measure_shape(measured, shape, plan)
    results.add(measured, shape, records)
    print(results.tables[-1], end="\n\n", flush=True)
    if sweeps and plan.measures_memory:
        sequences = SWEPT_SEQUENCES[plan.device.type]
        results.memory_by_tokens += memory_by_tokens(measured, records, sequences, SWEPT, plan)


if __name__ == "__main__":
    main()
