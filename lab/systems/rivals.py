"""The newest rivals that weigh pairs, beside the library's labels: MADPO, Uni-DPO, MWPO, SelectiveDPO, and d-DPO.

All read the same rewards, of the library's default heads; policies are compared at equal KL, in worlds whose seeds no
other experiment uses. The settings of the rivals are those of their authors' code, except that Uni-DPO's η is 1, as
rewards are in log-odds here, and its likelihood term is left out: it needs the log-prob itself, and here only
differences are known. MADPO's weights are not normalised, as in its author's code. Lengths of the laboratory have no
unit: MWPO is shown 256 exp(length / 2) tokens, and stands there without its length weight too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.config import ExperimentalConfig, WeightConfig
from iwpo_fast.objectives import Pair, get_objective
from lab.exact.arms import Arm, Build, arm_data, unweighted, weighted
from lab.exact.candidates import EVEN, VARIANCES, d_dpo, madpo, posterior_logistic
from lab.exact.compare import at, mean_of_changes, relative_change
from lab.exact.policy import ArmData
from lab.exact.regimes import FULL, Regime
from lab.exact.results import MAIN_BUDGET, as_numbers
from lab.exact.rewards import Floats, PairScores
from lab.exact.simulate import outcomes, source_digest
from lab.experiment import as_cell
from lab.systems.shown import Shown

CLAIM = (
    "No rival has a higher mean gain over DPO than the library's posterior labels: gold reward at a KL of "
    f"{MAIN_BUDGET:g} nat, mean over the regimes of this table."
)
REGIMES = (
    "1,000 pairs",
    "2,000 pairs, 30 % noise",
    "2,000 pairs, off-policy",
    "2,000 pairs, length bias",
    "1,000 pairs, reward partly unseen",
)
FIRST_SEED, WORLDS = 9000, 10
OURS = "posterior labels"
NOTE = (
    f"Change of DPO's own gain of gold reward, in per cent, at KL(π‖π_ref) = {MAIN_BUDGET:g} nat; {{worlds}} worlds "
    f"per regime with seeds from {FIRST_SEED} on; 95 % intervals, paired by world. Bold: the interval excludes zero."
)
QUALITY = WeightConfig(method="irpss", tau=np.inf, gamma=1.0, truncate=np.inf, soft_labels=0.0)
SELECTIVE = WeightConfig(experimental=ExperimentalConfig(method="selective"))


def by_objective(name: str, *, counts_tokens: bool = False, **parameters: float) -> Build:
    """An objective of the library, which may read the rewards as scores."""
    loss = get_objective(name).loss

    def of_pairs(pair: Pair, beta: float) -> Tensor:
        return loss(pair, beta=beta, **parameters)

    def build(scores: PairScores, seed: int) -> ArmData:
        both = np.stack([scores.rewards.chosen, scores.rewards.rejected], 1)
        read: dict[str, Any] = {"scores": torch.as_tensor(both, dtype=torch.float32), "counts_tokens": counts_tokens}
        return arm_data(np.ones(len(both)), np.zeros(len(both)), objective=of_pairs, **read)

    return build


BUILDS: Mapping[str, Build] = {
    "dpo": unweighted(),
    OURS: posterior_logistic(VARIANCES["ν 1"], EVEN),
    "d-DPO": d_dpo,
    "MADPO": madpo,
    "Uni-DPO": by_objective("uni_dpo", eta=1.0, tau=0.8, gamma=1.0, nll=0.0),
    "Uni-DPO's quality weight alone": weighted(QUALITY),
    "MWPO": by_objective("mwpo", counts_tokens=True),
    "MWPO, without its length weight": by_objective("mwpo", counts_tokens=True, alpha=1.0),
    "SelectiveDPO, 50 %": weighted(SELECTIVE),
}


def show(*, short: bool) -> Shown:
    regimes, worlds = (_regimes(REGIMES[:1], pairs=200), 2) if short else (_regimes(REGIMES), WORLDS)
    with TemporaryDirectory() as parts:
        measured = {r.name: outcomes(r, worlds, Path(parts), source_digest()) for r in regimes}
    gold = {
        name: [(at(MAIN_BUDGET, "gold", o[name]), at(MAIN_BUDGET, "gold", o["dpo"])) for o in measured.values()]
        for name in BUILDS
        if name != "dpo"
    }
    changes = {name: _judged(pairs, gold[OURS], [*measured]) for name, pairs in gold.items()}
    rivals = [name for name in changes if name != OURS]
    holds = all(changes[name]["mean"]["mean"] <= changes[OURS]["mean"]["mean"] for name in rivals)
    numbers = {"worlds": worlds, "first_seed": FIRST_SEED, "main_budget": MAIN_BUDGET, "changes": changes}
    return Shown(CLAIM, holds, _rows(changes, [*measured]), numbers, NOTE.format(worlds=worlds))


def _regimes(names: Sequence[str], pairs: int | None = None) -> list[Regime]:
    """Of the main table, with the rivals as arms in fresh worlds."""
    arms = {name: Arm(name, "auto", build, "rivals") for name, build in BUILDS.items()}
    chosen = [regime for name in names for regime in FULL if regime.name == name]
    if pairs is not None:
        chosen = [replace(regime, settings=replace(regime.settings, pairs=pairs)) for regime in chosen]
    return [replace(regime, arms=tuple(arms), catalogue=arms, first_seed=FIRST_SEED) for regime in chosen]


Golds = Sequence[tuple[Floats, Floats]]


def _judged(gold: Golds, ours: Golds, regimes: Sequence[str]) -> dict[str, Any]:
    """JSON-ready: changes of DPO's gain in per cent, by regime and their mean, and the mean minus that of ours."""
    by_regime = starmap(relative_change, gold)
    beyond = mean_of_changes([(base + theirs - own, base) for (theirs, base), (own, _) in zip(gold, ours, strict=True)])
    return {
        "mean": as_numbers(mean_of_changes(gold)),
        "beyond_ours": as_numbers(beyond),
        "regimes": {name: as_numbers(change) for name, change in zip(regimes, by_regime, strict=True)},
    }


def _rows(changes: Mapping[str, Any], regimes: Sequence[str]) -> list[list[str]]:
    rows = [["method", "mean over regimes", "minus that of posterior labels", *regimes]]
    for name, found in sorted(changes.items(), key=lambda item: -item[1]["mean"]["mean"]):
        beyond = "" if name == OURS else as_cell(found["beyond_ours"])
        rows.append([name, as_cell(found["mean"]), beyond, *(as_cell(found["regimes"][r]) for r in regimes)])
    return rows
