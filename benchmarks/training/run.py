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
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import ROOT, describe, device_slug, versions
from benchmarks.report import target_table
from benchmarks.targets import Target
from benchmarks.training.case import Case
from benchmarks.training.flops import nominal_peak
from benchmarks.training.growth import grow, ranges_of
from benchmarks.training.lengths import synthetic_pairs
from benchmarks.training.measure import LABELS, PEERS, Plan, measure, steps_needed
from benchmarks.training.pairs_file import load_pairs
from benchmarks.training.plot import draw
from benchmarks.training.processes import end_idle, matrix_rate
from benchmarks.training.report import case_table, growth_table, profile_table, targets_of
from benchmarks.training.shapes import HH_FILE, MAX_LENGTH, cpu_cases, gpu_cases, smoke_cases
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
    started = time.monotonic()
    rounds = options.rounds or (2 if options.quick else 5)
    plan = Plan(
        contenders=("ours", *options.peers),
        rounds=rounds,
        timed=2 if device.type == "cuda" else 1,
        deadline=started + (options.seconds or sum(SECONDS[device.type][part] for part in options.parts)),
    )
    path = options.out / f"training-{device_slug(device)}-{date.today().isoformat()}.json"
    results = Results(path, describe(device, options.commit), started, options.threads)
    if "cases" in options.parts:
        for case in cases_of(options):
            if plan.is_over:
                results.not_started.append(case.name)
            else:
                results.add_case(case, pairs_of(case, options.pairs, plan), plan)
    if "growth" in options.parts:
        for row in grow(ranges_of(device.type, options.quick), plan, options.device, options.threads):
            results.growth.append(row)
            results.write()
    end_idle()
    results.write()
    drawn = draw(results.growth, path, results.environment["device"]["name"])
    print(results.markdown())
    print(f"\nWrote {', '.join(str(p) for p in (path, *drawn))} after {time.monotonic() - started:.0f} s.")
    return path


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", help="preference pairs for the CPU; random ones of HH's lengths without")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cases", nargs="+", help="names of cases; all by default")
    default = "trl" if importlib.util.find_spec("trl") else "plain"
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[default])
    parser.add_argument("--quick", action="store_true", help="tiny shapes and two rounds")
    parser.add_argument("--rounds", type=int, help="samples of each contender in a case; 5 by default")
    parser.add_argument("--seconds", type=float, help="after that nothing starts but a case's first round")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch, on a CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--commit", help="where there is no git; so does $IWPO_COMMIT")
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
    count = steps_needed(plan, case.device) * case.pairs_per_step
    return synthetic_pairs(case.data, count, vocab=case.model.vocab, max_length=longest)


class Results:
    """What has been measured so far, written anew after every case so that a run that is cut short leaves it."""

    def __init__(self, path: Path, environment: dict[str, Any], started: float, threads: int) -> None:
        self.path, self.started, self.threads = path, started, threads
        self.environment = environment | {"versions": environment["versions"] | versions(PACKAGES)}
        self.cases: list[dict[str, Any]] = []
        self.growth: list[dict[str, Any]] = []
        self.targets: list[Target] = []
        self.tables: list[str] = []
        self.not_started: list[str] = []
        self.peaks: dict[str, Any] = {}

    def add_case(self, case: Case, pairs: Pairs, plan: Plan) -> None:
        """Measures it."""
        measured = measure(case, pairs, plan)
        self.cases.append(measured.as_dict())
        self.targets += targets_of(measured)
        profile = profile_table(measured)
        self.tables += [case_table(measured, self._peak(case)), *([profile] if profile else [])]
        self.write()
        print(self.tables[-1 - bool(profile)], flush=True)

    def _peak(self, case: Case) -> float:
        """FLOP/s by the data sheet where it is known, else of a bare product, which is measured once."""
        if not self.peaks:
            self.peaks = {
                "data_sheet": nominal_peak(self.environment["device"]["name"]),
                "bare_product": matrix_rate(case),
            }
        return self.peaks["data_sheet"] or self.peaks["bare_product"]

    def write(self) -> None:
        result = {
            "schema": 1,
            "date": date.today().isoformat(),
            "seconds": round(time.monotonic() - self.started, 1),
            "environment": self.environment | {"threads": self.threads, "load_after": os.getloadavg()},
            "peak_flops": self.peaks,
            "labels": LABELS,
            "not_started": self.not_started,
            "targets": [vars(target) | {"met": target.met} for target in self.targets],
            "cases": self.cases,
            "growth": self.growth,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(result, indent=1) + "\n")
        self.path.with_suffix(".md").write_text(self.markdown() + "\n")

    def markdown(self) -> str:
        parts = list(self.tables)
        if self.targets:
            parts.append(target_table(self.targets))
        if self.growth:
            parts.append(growth_table(self.growth))
        return "\n\n".join(parts)
