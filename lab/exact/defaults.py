"""Which weights and soft labels should be the library's defaults: chosen in some worlds, confirmed in others.

Rule, fixed before any round: among candidates that are significantly worse than DPO (95 %) in none of the regimes,
the one of the largest mean change over regimes; if there is none, among those that are worse in the fewest.

First round, seeds from 1000 on: weights at soft labels of strength 0.75. None was harmless: any use of the rewards
costs where much data meet rewards that heads on the features see badly. Second round, seeds from 2000 on and with
linear policies: weights that fade to DPO as the ensemble agrees, that is where pairs are plenty, a form found in seeds
3000 to 3019, beside the fixed ones. Third round, seeds from 4000 on: these weights with soft labels, after the
language-model level had shown that labels gain from rewards which agree, where the weights have faded. By the rule
labels stay hard, because every strength lost up to 1.4 % where rewards are blind to a part of the truth. The library
goes against it, with a strength of 0.5, because of what that gains at the language-model level. Both are confirmed in
the worlds of the main table, in all its regimes.

    python -m lab.exact.defaults
    python -m lab.exact.defaults --first-round 4    # rounds from the JSON, then the confirmation
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

from lab import experiment
from lab.exact.candidates import (
    CATALOGUE,
    CHOSEN_WEIGHTS,
    FADED,
    FIXED,
    LIBRARY,
    NO_WEIGHTS,
    PURE_WEIGHTS,
    SOFTENED,
    WEIGHT_NAMES,
    name_of,
)
from lab.exact.compare import Interval, at, mean_of_changes, relative_change
from lab.exact.regimes import FULL, Regime
from lab.exact.results import MAIN_BUDGET, as_numbers
from lab.exact.simulate import outcomes, source_digest
from lab.experiment import as_cell, as_table

ROUNDS = ("First", "Second", "Third")
FIRST_SEEDS, CHOICE_WORLDS, TABLE_WORLDS = (1000, 2000, 4000), (40, 20, 20), 20
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


def main(arguments: Sequence[str] | None = None) -> Path:
    """Choose, confirm, write; returns the path of the JSON."""
    options = _parse(arguments)
    started = time.monotonic()
    facts = experiment.on_one_thread(options.commit)
    run = partial(_judge, parts=options.parts, sources=source_digest())
    path = options.out / "exact-defaults.json"
    earlier = options.first_round - 1
    rounds = json.loads(path.read_text())["rounds"][:earlier] if earlier else []
    for regimes, worlds in [*zip(round_regimes(), options.worlds, strict=True)][earlier:]:
        rounds.append(run(regimes, worlds) | {"commit": facts["commit"]})
    chosen = by_rank(rounds[-1]["candidates"])[0]
    result = {
        "schema": 2,
        "date": date.today().isoformat(),
        "main_budget": MAIN_BUDGET,
        "chosen": chosen,
        "rounds": rounds,
        "confirmation": run(table_regimes(chosen), options.table_worlds),
        "seconds": round(time.monotonic() - started, 1),
        "environment": facts,
    }
    return experiment.write(path, result, markdown(result))


def round_regimes() -> list[list[Regime]]:
    """Weights at one strength of soft labels; fixed weights beside those that fade; these with soft labels."""
    first = [name_of(weights, STRENGTH) for weights in WEIGHT_NAMES]
    second = [*FADED, *(name_of(*candidate) for candidate in FIXED)]
    third = [CHOSEN_WEIGHTS, *SOFTENED]
    both = (*CHOICE, *LINEAR_CHOICE)
    return [*starmap(_regimes, zip((CHOICE, both, both), (first, second, third), FIRST_SEEDS, strict=True))]


def table_regimes(chosen: str) -> list[Regime]:
    """Of the confirmation."""
    arms = dict.fromkeys([chosen, LIBRARY, *(name_of(*candidate) for candidate in BESIDE)])
    return _regimes([regime.name for regime in FULL], [*arms])


def _regimes(names: Sequence[str], candidates: Sequence[str], first_seed: int = 0) -> list[Regime]:
    """Of the main table, with candidates for arms."""
    table = {regime.name: regime for regime in FULL}
    arms = ("dpo", *candidates)
    return [replace(table[name], arms=arms, catalogue=CATALOGUE, first_seed=first_seed) for name in names]


def _judge(regimes: Sequence[Regime], worlds: int, parts: Path, sources: str) -> dict[str, Any]:
    """JSON-ready: the arms of some regimes, which have the same, against DPO."""
    measured = {}
    for regime in regimes:
        measured[regime.name] = outcomes(regime, worlds, parts, sources)
        print(f"{time.strftime('%H:%M:%S')}  {regime.name}, {len(regime.arms) - 1} candidates", flush=True)
    candidates = {}
    for name in regimes[0].arms[1:]:
        gold = [(at(MAIN_BUDGET, "gold", o[name]), at(MAIN_BUDGET, "gold", o["dpo"])) for o in measured.values()]
        changes = dict(zip(measured, starmap(relative_change, gold), strict=True))
        candidates[name] = judged(changes, mean_of_changes(gold))
    return {"worlds": worlds, "first_seed": regimes[0].first_seed, "candidates": candidates}


def judged(changes: Mapping[str, Interval], mean: Interval) -> dict[str, Any]:
    """A candidate against DPO, in per cent of DPO's own gain at equal KL: by regime, and their mean."""
    return {
        "mean": as_numbers(mean),
        "better": sum(change.sign > 0 for change in changes.values()),
        "worse": sum(change.sign < 0 for change in changes.values()),
        "regimes": {regime: as_numbers(change) for regime, change in changes.items()},
    }


def markdown(result: dict[str, Any]) -> str:
    """The candidates of all rounds, then the choice and what is beside it in the worlds of the table."""
    confirmation = result["confirmation"]
    parts = [
        f"Chosen by the rule: **{result['chosen']}**; the library's default is **{LIBRARY}**, for what soft labels "
        "gain at the language-model level. Change of DPO's own gain of gold reward, in per cent, at KL(π‖π_ref) = "
        f"{result['main_budget']:g} nat; 95 % intervals, paired by world. Bold: the interval excludes zero. Rewards "
        "are of an ensemble of four. ε is the strength of the trust-scaled soft labels, ESS the effective sample size "
        "that τ is chosen for, ρ the share of noise in the rewards (`iwpo_fast.importance.effective_size`).",
        f"The choice in worlds that had no part in it, those of the main table, {confirmation['worlds']} per regime:",
        _table(confirmation["candidates"]),
    ]
    for name, part in zip(ROUNDS, result["rounds"], strict=True):
        parts.append(
            f"{name} round, {part['worlds']} worlds per regime with seeds from {part['first_seed']} on, by rank:"
        )
        parts.append(_table(part["candidates"]))
    return "\n\n".join(parts)


def _table(candidates: dict[str, Any]) -> str:
    regimes = [*next(iter(candidates.values()))["regimes"]]
    rows = [["candidate", "mean over regimes", "better / worse in", *regimes]]
    for name in by_rank(candidates):
        row = candidates[name]
        counts = f"{row['better']} / {row['worse']} of {len(regimes)}"
        rows.append([name, as_cell(row["mean"]), counts, *(as_cell(row["regimes"][regime]) for regime in regimes)])
    return as_table(rows)


def by_rank(candidates: dict[str, Any]) -> list[str]:
    """By the rule, the best first."""
    return sorted(candidates, key=lambda name: (candidates[name]["worse"], -candidates[name]["mean"]["mean"]))


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = experiment.options("lab.exact.defaults", __doc__, "iwpo-lab-exact")
    parser.add_argument("--worlds", type=int, nargs=3, default=CHOICE_WORLDS, help="worlds of a regime of each round")
    parser.add_argument(
        "--first-round", type=int, choices=(1, 2, 3, 4), default=1, help="earlier ones are read from --out"
    )
    parser.add_argument("--table-worlds", type=int, default=TABLE_WORLDS, help="worlds of a regime of the confirmation")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
