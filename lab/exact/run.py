"""The exact level from end to end: simulate what is missing, compare, write JSON, Markdown and plots."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from lab.exact import plot, report
from lab.exact.regimes import FULL, FULL_BIAS, SHORT, SHORT_BIAS, Regime
from lab.exact.results import as_json
from lab.exact.simulate import outcomes, source_digest

RESULTS = Path(__file__).resolve().parents[1] / "results"
WORLDS, SHORT_WORLDS = 20, 10


def main(arguments: Sequence[str]) -> Path:
    """Runs the level; returns the path of the JSON."""
    options = _parse(arguments)
    if options.worlds is not None and options.worlds < 3:
        raise ValueError(f"--worlds is {options.worlds}, and an interval needs a spread: give 3 or more.")
    torch.set_num_threads(1)
    started = time.monotonic()
    regimes, bias = (SHORT, SHORT_BIAS) if options.short else (FULL, FULL_BIAS)
    if options.regimes is not None:
        _check_names(options.regimes, [*regimes, *bias])
        regimes, bias = ([r for r in part if r.name in options.regimes] for part in (regimes, bias))
    worlds = options.worlds or (SHORT_WORLDS if options.short else WORLDS)
    facts = environment.describe(torch.device("cpu"), options.commit)
    sources = source_digest()
    found = []
    for regime in (*regimes, *bias):
        found.append((regime, outcomes(regime, worlds, options.parts, sources)))
        print(f"{time.monotonic() - started:6.0f} s  {regime.name}", flush=True)
    split = len(regimes)
    result = as_json(found[:split], found[split:], facts, worlds, time.monotonic() - started)
    name = "exact-short" if options.short else "exact"
    path = options.out / f"{name}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    text = report.markdown(result)
    path.with_suffix(".md").write_text(text + "\n")
    plot.draw(path)
    print(text)
    return path


def _parse(arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m lab exact", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few regimes and worlds, in minutes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of JSON, Markdown and plots")
    parser.add_argument(
        "--parts",
        type=Path,
        default=Path(tempfile.gettempdir()) / "iwpo-lab-exact",
        help="folder of what is simulated; a run that was cut short goes on from there",
    )
    parser.add_argument("--worlds", type=int, help="worlds of a regime")
    parser.add_argument("--regimes", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--commit", help="where git cannot tell")
    return parser.parse_args(arguments)


def _check_names(names: Sequence[str], regimes: Sequence[Regime]) -> None:
    known = [regime.name for regime in regimes]
    for name in names:
        if name not in known:
            raise ValueError(f"--regimes names {name!r}, which is none of this run's: choose of {', '.join(known)}.")
