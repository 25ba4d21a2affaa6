"""Which use of the rewards should be the library's default: the exact level's part of the choice.

Rule, written down before any run. Of the candidates that are significantly worse than DPO (95 %) in no regime of this
level and at neither noise of the language-model level, the one with the highest score, which is the mean of two
ratios: the mean change over the regimes here, over that of d-DPO with linear heads; and the mean change over both
noises of the language-model level, over that of d-DPO with linear heads. Only finalists are trained at that level: the
`FINALISTS` of the highest means among those worse than DPO in the fewest regimes here, the default until now, and the
rivals d-DPO and MADPO with linear heads. If a rival wins, it becomes the default.

The choice is made in worlds with seeds from 5000 on; the finalists are confirmed in those of the main table.

    python -m lab.exact.defaults
    python -m lab.exact.defaults --confirm "logistic, ν 1; auto" "d-DPO; linear"   # these alone, in the table's worlds
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

from lab import experiment
from lab.exact.candidates import CANDIDATES, CATALOGUE
from lab.exact.compare import Interval, at, mean_of_changes, relative_change
from lab.exact.regimes import FULL, Regime
from lab.exact.results import MAIN_BUDGET, as_numbers
from lab.exact.simulate import outcomes, source_digest
from lab.experiment import as_cell, as_table

CHOICE_SEED, TABLE_SEED, WORLDS = 5000, 0, 20
FINALISTS = 4
BESIDE = ("default until now; linear", "d-DPO; linear", "MADPO; linear")


def main(arguments: Sequence[str] | None = None) -> Path:
    """Choose, confirm, write; returns the path of the JSON."""
    options = _parse(arguments)
    started = time.monotonic()
    facts = experiment.on_one_thread(options.commit)
    judge = partial(_judge, parts=options.parts, sources=source_digest(), worlds=options.worlds)
    if options.confirm:
        confirmation = judge(regimes_of(options.confirm, TABLE_SEED))
        result = {"schema": 1, "main_budget": MAIN_BUDGET, "confirmation": confirmation, "environment": facts}
        return experiment.write(options.out / "exact-confirmed.json", result, confirmed_markdown(result))
    choice = judge(regimes_of([*CANDIDATES], CHOICE_SEED))
    finalists = finalists_of(choice["candidates"])
    result = {
        "schema": 3,
        "date": date.today().isoformat(),
        "main_budget": MAIN_BUDGET,
        "finalists": finalists,
        "choice": choice,
        "confirmation": judge(regimes_of(finalists, TABLE_SEED)),
        "seconds": round(time.monotonic() - started, 1),
        "environment": facts,
    }
    return experiment.write(options.out / "exact-choice.json", result, markdown(result))


def regimes_of(candidates: Sequence[str], first_seed: int) -> list[Regime]:
    """The regimes of the main table, with candidates for arms."""
    arms = ("dpo", *candidates)
    return [replace(regime, arms=arms, catalogue=CATALOGUE, first_seed=first_seed) for regime in FULL]


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


def by_rank(candidates: Mapping[str, Any]) -> list[str]:
    """Harmless first and good second."""
    return sorted(candidates, key=lambda name: (candidates[name]["worse"], -candidates[name]["mean"]["mean"]))


def finalists_of(candidates: Mapping[str, Any]) -> list[str]:
    """The best by rank, and what stands beside them in any case."""
    return [*dict.fromkeys([*by_rank(candidates)[:FINALISTS], *BESIDE])]


def markdown(result: dict[str, Any]) -> str:
    """The finalists in the worlds of the table, then all candidates by rank."""
    choice, confirmation = result["choice"], result["confirmation"]
    return "\n\n".join(
        [
            _explained(result),
            f"Finalists in worlds that had no part in the choice, {confirmation['worlds']} per regime:",
            _table(confirmation["candidates"]),
            f"All candidates, {choice['worlds']} worlds per regime with seeds from {choice['first_seed']} on, by rank:",
            _table(choice["candidates"]),
        ]
    )


def confirmed_markdown(result: dict[str, Any]) -> str:
    """Named candidates in the worlds of the table."""
    worlds = f"In worlds that had no part in a choice, {result['confirmation']['worlds']} per regime:"
    return "\n\n".join([_explained(result), worlds, _table(result["confirmation"]["candidates"])])


def _explained(result: Mapping[str, Any]) -> str:
    return (
        "Change of DPO's own gain of gold reward, in per cent, at KL(π‖π_ref) = "
        f"{result['main_budget']:g} nat; 95 % intervals, paired by world. Bold: the interval excludes zero. "
        "Rewards are of an ensemble of four. Labels are posterior, with s² = ν times the mean square of the reward "
        "gaps, or fixed; `weights` are by the noise of the rewards. The rule is in `lab/exact/defaults.py`."
    )


def _table(candidates: dict[str, Any]) -> str:
    regimes = [*next(iter(candidates.values()))["regimes"]]
    rows = [["candidate", "mean over regimes", "better / worse in", *regimes]]
    for name in by_rank(candidates):
        row = candidates[name]
        counts = f"{row['better']} / {row['worse']} of {len(regimes)}"
        rows.append([name, as_cell(row["mean"]), counts, *(as_cell(row["regimes"][regime]) for regime in regimes)])
    return as_table(rows)


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = experiment.options("lab.exact.defaults", __doc__, "iwpo-lab-exact")
    parser.add_argument("--worlds", type=int, default=WORLDS, help="worlds of a regime")
    parser.add_argument(
        "--confirm",
        nargs="+",
        choices=CANDIDATES,
        metavar="CANDIDATE",
        help="judge these in the table's worlds, no more",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
