"""The newest rivals that weigh pairs, beside the library's labels: MADPO, Uni-DPO, MWPO, SelectiveDPO, DRPO, and d-DPO.

All read the same rewards, of the library's default heads; policies are compared at equal KL, in worlds whose seeds no
other experiment uses. The settings of the rivals are those of their authors' code, except that Uni-DPO's η is 1, as
rewards are in log-odds here, and its likelihood term is left out: it needs the log-prob itself, and here only
differences are known. MADPO's weights are not normalised, as in its author's code. Lengths of the laboratory have no
unit: MWPO is shown 256 exp(length / 2) tokens, and stands there without its length weight too. DRPO reads what no other
arm does: rewards of all completions of each prompt, and the policy's probabilities of them in the place of draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.config import ExperimentalConfig, WeightConfig
from iwpo_fast.objectives import Pair, get_objective
from lab.exact.arms import Build, arm_data, unweighted, weighted
from lab.exact.candidates import EVEN, VARIANCES, d_dpo, madpo, posterior_logistic
from lab.exact.doubly_robust import DoublyRobust
from lab.exact.policy import ArmData
from lab.exact.results import MAIN_BUDGET
from lab.exact.rewards import PairScores
from lab.exact.worlds import COMPLETIONS
from lab.systems.comparison import compared, regimes_of, rows_of, values_of
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


def doubly_robust(**settings: Any) -> Build:
    """DRPO, whose judge are the rewards of all completions."""

    def build(scores: PairScores, seed: int) -> ArmData:
        assert scores.candidates is not None, "its model scores all completions"
        count = len(scores.candidates)
        rewards = torch.as_tensor(scores.candidates[:, 2:], dtype=torch.float32)
        return arm_data(np.ones(count), np.zeros(count), doubly_robust=DoublyRobust(rewards, **settings))

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

OF_ALL_COMPLETIONS: Mapping[str, Build] = {
    "DRPO": doubly_robust(),
    "DRPO's direct method alone": doubly_robust(corrects=False),
}


def show(*, short: bool) -> Shown:
    names, pairs, worlds = (REGIMES[:1], 200, 2) if short else (REGIMES, None, WORLDS)
    regimes = regimes_of(names, BUILDS, "auto", first_seed=FIRST_SEED, pairs=pairs)
    beside = regimes_of(names, OF_ALL_COMPLETIONS, "auto+all", first_seed=FIRST_SEED, pairs=pairs)
    with TemporaryDirectory() as parts:
        changes = compared(regimes, OURS, worlds, Path(parts), beside)
    means = values_of(changes)
    holds = max(means.values()) <= means[OURS]
    numbers = {"worlds": worlds, "first_seed": FIRST_SEED, "main_budget": MAIN_BUDGET, "changes": changes}
    rows, note = rows_of(changes, OURS, worlds, FIRST_SEED)
    note += (
        " DRPO and its direct method were added when the others had been measured. They alone read rewards of all "
        f"{COMPLETIONS} completions of each prompt, where the others read those of the pair."
    )
    return Shown(CLAIM, holds, rows, numbers, note)
