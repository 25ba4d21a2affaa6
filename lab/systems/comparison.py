"""Methods beside DPO in the exact laboratory, at equal KL: by regime, on the mean, and beyond one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import Any

from lab.exact.arms import Arm, Build
from lab.exact.compare import at, mean_of_changes, relative_change
from lab.exact.regimes import FULL, Regime
from lab.exact.results import MAIN_BUDGET, as_numbers
from lab.exact.rewards import Floats
from lab.exact.simulate import outcomes, source_digest
from lab.experiment import as_cell

Golds = Sequence[tuple[Floats, Floats]]


def regimes_of(
    names: Sequence[str], builds: Mapping[str, Build], model: str, *, first_seed: int, pairs: int | None = None
) -> list[Regime]:
    """Regimes of the main table, in fresh worlds, with methods that all read the rewards of one model as arms.

    Args:
        builds: the methods by name, `dpo` first.
        pairs: of each world, in the place of the regime's own number.
    """
    arms = {name: Arm(name, model, build, "rivals") for name, build in builds.items()}
    chosen = [regime for name in names for regime in FULL if regime.name == name]
    if pairs is not None:
        chosen = [replace(regime, settings=replace(regime.settings, pairs=pairs)) for regime in chosen]
    return [replace(regime, arms=tuple(arms), catalogue=arms, first_seed=first_seed) for regime in chosen]


def compared(
    regimes: Sequence[Regime], ours: str, worlds: int, parts: Path, beside: Sequence[Regime] = ()
) -> dict[str, Any]:
    """JSON-ready, by method: changes of DPO's gain of gold reward in per cent, and how far they go beyond `ours`.

    Args:
        beside: the same regimes with further methods, which are trained by themselves.
    """
    found = [dict(outcomes(regime, worlds, parts, source_digest())) for regime in regimes]
    for of_regime, more in zip(found, beside, strict=bool(beside)):
        of_regime |= outcomes(more, worlds, parts, source_digest())
    gold = {
        name: [(at(MAIN_BUDGET, "gold", o[name]), at(MAIN_BUDGET, "gold", o["dpo"])) for o in found]
        for name in found[0]
        if name != "dpo"
    }
    return {name: _judged(pairs, gold[ours], [regime.name for regime in regimes]) for name, pairs in gold.items()}


def values_of(changes: Mapping[str, Any]) -> dict[str, float]:
    """Mean change of each method over the regimes."""
    return {name: found["mean"]["mean"] for name, found in changes.items()}


def rows_of(changes: Mapping[str, Any], ours: str, worlds: int, first_seed: int) -> tuple[list[list[str]], str]:
    """The table, best first, and what a reader must know of it."""
    regimes = [*changes[ours]["regimes"]]
    rows = [["method", "mean over regimes", f"minus that of {ours}", *regimes]]
    for name, found in sorted(changes.items(), key=lambda item: -item[1]["mean"]["mean"]):
        beyond = "" if name == ours else as_cell(found["beyond_ours"])
        rows.append([name, as_cell(found["mean"]), beyond, *(as_cell(found["regimes"][r]) for r in regimes)])
    note = (
        f"Change of DPO's own gain of gold reward, in per cent, at KL(π‖π_ref) = {MAIN_BUDGET:g} nat; {worlds} worlds "
        f"per regime with seeds from {first_seed} on; 95 % intervals, paired by world. "
        "Bold: the interval excludes zero."
    )
    return rows, note


def _judged(gold: Golds, ours: Golds, regimes: Sequence[str]) -> dict[str, Any]:
    beyond = mean_of_changes([(base + theirs - own, base) for (theirs, base), (own, _) in zip(gold, ours, strict=True)])
    by_regime = zip(regimes, starmap(relative_change, gold), strict=True)
    return {
        "mean": as_numbers(mean_of_changes(gold)),
        "beyond_ours": as_numbers(beyond),
        "regimes": {name: as_numbers(change) for name, change in by_regime},
    }
