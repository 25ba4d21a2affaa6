"""The exact level from end to end: simulate what is missing, compare, write JSON and Markdown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import experiment
from lab.exact import report
from lab.exact.regimes import FULL, FULL_BIAS, SHORT, SHORT_BIAS, Regime
from lab.exact.results import as_json
from lab.exact.simulate import outcomes, source_digest

WORLDS, SHORT_WORLDS = 20, 10


def main(arguments: Sequence[str]) -> Path:
    """Run the level; returns the path of the JSON."""
    options = _parse(arguments)
    if options.worlds is not None and options.worlds < 3:
        raise ValueError(f"--worlds is {options.worlds}, and an interval needs a spread: give 3 or more.")
    started = time.monotonic()
    regimes, bias = (SHORT, SHORT_BIAS) if options.short else (FULL, FULL_BIAS)
    if options.regimes is not None:
        _check_names(options.regimes, [*regimes, *bias])
        regimes, bias = ([r for r in part if r.name in options.regimes] for part in (regimes, bias))
    worlds = options.worlds or (SHORT_WORLDS if options.short else WORLDS)
    facts = experiment.on_one_thread(options.commit)
    sources = source_digest()
    measured = []
    for regime in (*regimes, *bias):
        measured.append((regime, outcomes(regime, worlds, options.parts, sources)))
        print(f"{time.monotonic() - started:6.0f} s  {regime.name}", flush=True)
    split = len(regimes)
    result = as_json(measured[:split], measured[split:], facts, worlds, time.monotonic() - started)
    path = options.out / ("exact-short.json" if options.short else "exact.json")
    return experiment.write(path, result, report.markdown(result))


def _parse(arguments: Sequence[str]) -> Any:
    parser = experiment.options("lab exact", __doc__, "iwpo-lab-exact")
    parser.add_argument("--short", action="store_true", help="a few regimes and worlds, in minutes")
    parser.add_argument("--worlds", type=int, help="worlds of a regime")
    parser.add_argument("--regimes", nargs="+", metavar="NAME", help="only these")
    return parser.parse_args(arguments)


def _check_names(names: Sequence[str], regimes: Sequence[Regime]) -> None:
    known = [regime.name for regime in regimes]
    for name in names:
        if name not in known:
            raise ValueError(f"--regimes names {name!r}, which is none of this run's: choose of {', '.join(known)}.")
