"""Training steps of iwpo_fast against those of TRL's DPOTrainer; one JSON, its Markdown, and a plot for each sweep.

    python -m benchmarks.training --parts cases --pairs hh_harmless_test.jsonl.gz  # about eight minutes on two cores
    python -m benchmarks.training --parts growth --peers trl plain                 # less than twenty minutes on two
    python -m benchmarks.training --device cuda --peers trl plain                  # one GPU, random pairs, large models
    python -m benchmarks.training --quick                                          # tiny shapes, to see that it works

Where TRL is not installed, its place is taken by plain PyTorch that does the same; see `contenders.plain`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.environment import versions
from benchmarks.harness import Plan
from benchmarks.plot import draw_growth
from benchmarks.results import Results, common_options, results_of
from benchmarks.training.case import Case
from benchmarks.training.flops import nominal_peak
from benchmarks.training.growth import grow, sweeps_of
from benchmarks.training.measure import LABELS, PEERS, measure, steps_needed
from benchmarks.training.pairs import load_pairs, synthetic_pairs
from benchmarks.training.report import case_table, growth_table, profile_table, targets_of
from benchmarks.training.shapes import HH_FILE, MAX_LENGTH, cpu_cases, gpu_cases, smoke_cases
from benchmarks.training.workers import end_idle, matrix_rate
from iwpo_fast.data.pairs import Pairs

SECONDS = {"cpu": {"cases": 400, "growth": 1080}, "cuda": {"cases": 1200, "growth": 900}}
PACKAGES = ("peft", "accelerate", "datasets")
PARTS = ("cases", "growth")


def main(argv: Sequence[str] | None = None) -> Path:
    """Path of the JSON written."""
    options = arguments(argv)
    device = torch.device(options.device)
    if device.type == "cuda":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # TRL would spread its batches over all that it sees
    plan = Plan(
        device=device,
        libraries=("ours", *options.peers),
        rounds=options.rounds or (2 if options.quick else 5),
        threads=options.threads,
        timed=2 if device.type == "cuda" else 1,
        deadline=time.monotonic() + (options.seconds or sum(SECONDS[device.type][part] for part in options.parts)),
    )
    content = {"peak_flops": {}, "labels": LABELS, "not_started": [], "cases": [], "growth": []}
    results = results_of(options, "training-", content)
    environment = results.environment
    environment |= {"threads": options.threads, "versions": environment["versions"] | versions(PACKAGES)}
    if "cases" in options.parts:
        for case in cases_of(options):
            if plan.is_over:
                results.content["not_started"].append(case.name)
            else:
                add_case(results, case, pairs_of(case, options.pairs, plan), plan)
    if "growth" in options.parts:
        for row in grow(sweeps_of(device.type, options.quick), plan):
            results.content["growth"].append(row)
            results.after = [growth_table(results.content["growth"])]
            results.write()
    end_idle()
    results.write()
    drawn = draw_growth(results.content["growth"], results.path, environment["device"]["name"])
    print(results.markdown())
    print(f"\nWrote {', '.join(str(path) for path in (results.path, *drawn))} after {results.seconds:.0f} s.")
    return results.path


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    usual = "trl" if importlib.util.find_spec("trl") else "plain"
    parser = common_options(__doc__ or "", "cpu", PEERS, [usual])
    parser.add_argument("--pairs", help="preference pairs for the CPU; random ones of HH's lengths without")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cases", nargs="+", help="names of cases; all by default")
    return parser.parse_args(argv)


def cases_of(options: argparse.Namespace) -> list[Case]:
    if options.quick:
        cases = smoke_cases(options.device)
    else:
        cases = cpu_cases(options.threads) if options.device == "cpu" else gpu_cases()
    if options.pairs is None:
        cases = [replace(case, data="HH") if case.data == HH_FILE else case for case in cases]
    return [case for case in cases if options.cases is None or case.name in options.cases]


def pairs_of(case: Case, path: str | None, plan: Plan) -> Pairs:
    longest = MAX_LENGTH[case.device]
    if case.data == HH_FILE:
        assert path is not None
        return load_pairs(path, vocab=case.model.vocab, max_length=longest)
    count = steps_needed(plan) * case.pairs_per_step
    return synthetic_pairs(case.data, count, vocab=case.model.vocab, max_length=longest)


def add_case(results: Results, case: Case, pairs: Pairs, plan: Plan) -> None:
    """Measure a case, and print its table."""
    measured = measure(case, pairs, plan)
    results.content["cases"].append(measured.as_dict())
    results.targets += targets_of(measured)
    table = case_table(measured, _peak(results, case))
    results.tables += filter(None, (table, profile_table(measured)))
    results.write()
    print(table, flush=True)


def _peak(results: Results, case: Case) -> float:
    """FLOP/s by the data sheet where it is known, else of a bare product, which is measured once."""
    peaks = results.content["peak_flops"]
    if not peaks:
        peaks["data_sheet"] = nominal_peak(results.environment["device"]["name"])
        peaks["bare_product"] = matrix_rate(case)
    return peaks["data_sheet"] or peaks["bare_product"]


if __name__ == "__main__":
    main()
