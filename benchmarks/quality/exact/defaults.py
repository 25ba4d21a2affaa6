"""Which weights and soft labels should be the library's defaults: chosen in some worlds, confirmed in others.

Rule, fixed before either round: among candidates that are significantly worse than DPO (95 %) in none of the regimes,
the one of the largest mean change over regimes; if there is none, among those that are worse in the fewest.

First round, seeds from 1000 on: weights at soft labels of strength 0.75, then other strengths for the best two. None
was harmless: any use of the rewards costs where much data meet a reward that heads on the features see badly. Second
round, seeds from 2000 on and with linear policies: weights that fade to DPO as the ensemble agrees, that is where
pairs are plenty. Their form was found in seeds 3000 to 3019. What a round has chosen is confirmed in the worlds of the
main table, in all its regimes.

    python -m benchmarks.quality.exact.defaults first
    python -m benchmarks.quality.exact.defaults second
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from benchmarks.quality.exact.candidates import (
    CATALOGUE,
    FADED,
    FIXED,
    NO_WEIGHTS,
    PURE_WEIGHTS,
    STRENGTHS,
    WEIGHT_NAMES,
    name_of,
)
from benchmarks.quality.exact.compare import Interval, mean_of_changes, relative_change
from benchmarks.quality.exact.regimes import FULL, Regime
from benchmarks.quality.exact.report import as_cell, as_table
from benchmarks.quality.exact.results import MAIN_BUDGET, as_numbers
from benchmarks.quality.exact.simulate import outcomes, source_digest

RESULTS = Path(__file__).resolve().parents[2] / "results"
FIRST_SEED, CHOICE_WORLDS, TABLE_WORLDS = {"first": 1000, "second": 2000}, 40, 20
STRENGTH = 0.75
BESIDE = ((PURE_WEIGHTS, 0.0), (PURE_WEIGHTS, STRENGTH), (NO_WEIGHTS, STRENGTH))  # in the confirmation

CHOICE = (
    "300 pairs",
    "1,000 pairs",
    "4,000 pairs",
    "2,000 pairs, no noise",
    "2,000 pairs, 30 % noise",
    "2,000 pairs, length bias",
    "1,000 pairs, reward partly unseen",
    "4,000 pairs, reward partly unseen",
)
LINEAR_CHOICE = ("1,000 pairs, linear policy", "4,000 pairs, linear policy")
Judge = Callable[[Sequence[Regime]], dict[str, "Judged"]]


@dataclass(frozen=True)
class Judged:
    """A candidate against DPO, in per cent of DPO's own gain at equal KL.

    Attributes:
        changes: by regime.
        mean: over regimes.
    """

    changes: Mapping[str, Interval]
    mean: Interval

    @property
    def worse(self) -> int:
        """Regimes in which it is significantly worse than DPO."""
        return sum(change.sign < 0 for change in self.changes.values())

    @property
    def better(self) -> int:
        """Regimes in which it is significantly better than DPO."""
        return sum(change.sign > 0 for change in self.changes.values())


def best(judged: Mapping[str, Judged], count: int) -> list[str]:
    """The first `count` candidates by the rule."""
    return sorted(judged, key=lambda name: (judged[name].worse, -judged[name].mean.mean))[:count]


def main(arguments: Sequence[str] | None = None) -> Path:
    """Chooses, confirms, writes; returns the path of the JSON."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    started = time.monotonic()
    facts = environment.describe(torch.device("cpu"), options.commit)
    run = partial(_judge, parts=options.parts, sources=source_digest())
    judged = {"first": first_round, "second": second_round}[options.round](partial(run, worlds=options.worlds))
    (chosen,) = best(judged, 1)
    arms = list(dict.fromkeys([chosen, *(name_of(*candidate) for candidate in BESIDE)]))
    confirmed = run(_regimes([regime.name for regime in FULL], arms), worlds=options.table_worlds)
    seed = FIRST_SEED[options.round]
    result = {
        "schema": 1,
        "date": date.today().isoformat(),
        "seconds": round(time.monotonic() - started, 1),
        "environment": facts,
        "main_budget": MAIN_BUDGET,
        "chosen": chosen,
        "choice": {"worlds": options.worlds, "first_seed": seed, "candidates": _as_json(judged)},
        "confirmation": {"worlds": options.table_worlds, "first_seed": 0, "candidates": _as_json(confirmed)},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path: Path = options.out / f"quality-exact-defaults-{options.round}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(result) + "\n")
    return path


def first_round(judge: Judge) -> dict[str, Judged]:
    """Weights at one strength of soft labels, then other strengths of the best two."""
    candidates = {name_of(weights, STRENGTH): weights for weights in WEIGHT_NAMES}
    judged = judge(_regimes(CHOICE, [*candidates], FIRST_SEED["first"]))
    others = [
        name_of(weights, strength)
        for weights in (candidates[name] for name in best(judged, 2))
        for strength in STRENGTHS
        if strength != STRENGTH and (weights, strength) != (NO_WEIGHTS, 0.0)
    ]
    return judged | judge(_regimes(CHOICE, others, FIRST_SEED["first"]))


def second_round(judge: Judge) -> dict[str, Judged]:
    """Fixed weights and those that fade."""
    candidates = [*FADED, *(name_of(*candidate) for candidate in FIXED)]
    return judge(_regimes((*CHOICE, *LINEAR_CHOICE), candidates, FIRST_SEED["second"]))


def _regimes(names: Sequence[str], candidates: Sequence[str], first_seed: int = 0) -> list[Regime]:
    """Of the main table, with candidates for arms."""
    table = {regime.name: regime for regime in FULL}
    arms = ("dpo", *candidates)
    return [replace(table[name], arms=arms, catalogue=CATALOGUE, first_seed=first_seed) for name in names]


def _judge(regimes: Sequence[Regime], worlds: int, parts: Path, sources: str) -> dict[str, Judged]:
    """The arms of some regimes, which have the same, but for DPO."""
    found = {}
    for regime in regimes:
        found[regime.name] = outcomes(regime, worlds, parts, sources)
        print(f"{time.strftime('%H:%M:%S')}  {regime.name}, {len(regime.arms) - 1} candidates", flush=True)
    judged = {}
    for name in regimes[0].arms[1:]:
        gold = [(o.at(MAIN_BUDGET, "gold", name), o.at(MAIN_BUDGET, "gold", "dpo")) for o in found.values()]
        changes = dict(zip(found, starmap(relative_change, gold), strict=True))
        judged[name] = Judged(changes, mean_of_changes(gold))
    return judged


def markdown(result: dict[str, Any]) -> str:
    """All candidates in the worlds of the choice, then the choice and its parts in those of the table."""
    choice, confirmation = result["choice"], result["confirmation"]
    return "\n\n".join(
        [
            f"Chosen: **{result['chosen']}**. Change of DPO's own gain of gold reward, in per cent, at KL(π‖π_ref) = "
            f"{result['main_budget']:g} nat; 95 % intervals, paired by world. Bold: the interval excludes zero. ε is "
            "the strength of the trust-scaled soft labels; rewards are of an ensemble of four.",
            f"All candidates, {choice['worlds']} worlds per regime with seeds from {choice['first_seed']} on, by rank:",
            _table(choice["candidates"]),
            f"The choice and its parts in worlds that had no part in it, {confirmation['worlds']} per regime:",
            _table(confirmation["candidates"]),
        ]
    )


def _table(candidates: dict[str, Any]) -> str:
    regimes = [*next(iter(candidates.values()))["regimes"]]
    rows = [["candidate", "mean over regimes", "better / worse in", *regimes]]
    for name, row in candidates.items():
        counts = f"{row['better']} / {row['worse']} of {len(regimes)}"
        rows.append([name, as_cell(row["mean"]), counts, *(as_cell(row["regimes"][regime]) for regime in regimes)])
    return as_table(rows)


def _as_json(judged: Mapping[str, Judged]) -> dict[str, Any]:
    """By rank."""
    return {
        name: {
            "mean": as_numbers(judged[name].mean),
            "better": judged[name].better,
            "worse": judged[name].worse,
            "regimes": {regime: as_numbers(change) for regime, change in judged[name].changes.items()},
        }
        for name in best(judged, len(judged))
    }


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.exact.defaults", description=__doc__)
    parser.add_argument("round", choices=FIRST_SEED, help="which candidates")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of JSON and Markdown")
    parts = Path(tempfile.gettempdir()) / "iwpo-quality-exact"
    parser.add_argument("--parts", type=Path, default=parts, help="folder of what is simulated")
    parser.add_argument("--worlds", type=int, default=CHOICE_WORLDS, help="worlds of a regime of the choice")
    parser.add_argument("--table-worlds", type=int, default=TABLE_WORLDS, help="worlds of a regime of the confirmation")
    parser.add_argument("--commit", help="where git cannot tell")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
