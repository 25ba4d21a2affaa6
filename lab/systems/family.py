"""The biased-preference curve of reward-model distillation (arXiv 2405.19316, as understood here).

In a world of a rate ρ the longer completion is chosen in a share ρ of the pairs, by drawing pairs anew. The grader
likes length a little, so that below one half the bias is against the truth. Reward models are the library's: one, an
ensemble of bootstraps, five of random subsets, and the family, whose members learn from pairs drawn to five rates
(`rewards.family`). Policies are trained on the library's objectives, with the exact KL(π_ref ‖ π), and compared at
equal KL(π ‖ π_ref). The model of pairs drawn to one half, and other γ and KL, were added when a first run had been
seen: the claim, which was fixed before it, does not read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.objectives import Pair, get_objective
from lab.exact.arms import FORWARD_KL, Arm, Build, arm_data, unweighted
from lab.exact.compare import Interval, at, mean_interval
from lab.exact.policy import ArmData
from lab.exact.regimes import BIAS_PAIRS, BIAS_RATES, Regime
from lab.exact.results import MAIN_BUDGET, as_numbers
from lab.exact.rewards import Floats, PairScores
from lab.exact.simulate import outcomes, source_digest
from lab.exact.worlds import WorldSettings
from lab.experiment import bold
from lab.systems.shown import Shown

OURS, ONE = "e-DPO, family", "d-DPO, one model"
CLAIM = (
    "Where the bias is against the truth, at the rates of longer chosen completions below one half, e-DPO with the "
    "family gains more gold reward than DPO and than d-DPO with one reward model (95 % intervals of the mean over "
    f"those rates, at a KL of {MAIN_BUDGET:g} nat); and its mean gain over all rates is not lower than either's."
)
FIRST_SEED, WORLDS = 9700, 20


def by_objective(
    name: str, *, mean: bool = False, forward_kl: float = 0.0, kl_on: slice | None = None, **parameters: float
) -> Build:
    """An objective of the library on the gaps of the reward models.

    Args:
        mean: the models' mean gap in the place of theirs.
        forward_kl: factor of KL(π_ref ‖ π). The laboratory adds it, because objectives see log-probs without their
            normaliser here.
        kl_on: which of the completions that were scored it is taken on; None takes the exact one.
    """
    loss = get_objective(name).loss

    def of_pairs(pair: Pair, beta: float) -> Tensor:
        return loss(pair, beta=beta, **parameters)

    def build(scores: PairScores, seed: int) -> ArmData:
        gaps = torch.as_tensor(scores.gaps, dtype=torch.float32)
        gaps = gaps.mean(1, keepdim=True) if mean else gaps
        read: dict[str, Any] = {"scores": torch.stack([gaps, torch.zeros_like(gaps)], 1), "forward_kl": forward_kl}
        if kl_on is not None:
            assert scores.completions is not None, "heads have scored them"
            read["kl_completions"] = torch.from_numpy(scores.completions[:, kl_on])
        return arm_data(np.ones(len(gaps)), np.zeros(len(gaps)), objective=of_pairs, **read)

    return build


e_dpo = partial(by_objective, "e_dpo", gamma=0.0)
E_DPO = e_dpo(forward_kl=FORWARD_KL)
PAIRS, SAMPLES = slice(2), slice(2, 4)
METHODS: Mapping[str, tuple[str, Build]] = {
    "dpo": ("single", unweighted()),
    "IPO": ("single", by_objective("ipo")),
    ONE: ("single", by_objective("d_dpo")),
    "d-DPO, one model, pairs drawn to 50 %": ("balanced", by_objective("d_dpo")),
    "d-DPO, mean of the family": ("family", by_objective("d_dpo", mean=True)),
    "d-DPO, least gap of the family": ("family", by_objective("d_dpo_min_gap")),
    "e-DPO, bootstraps": ("ensemble", E_DPO),
    "e-DPO, subsets": ("subsets", E_DPO),
    OURS: ("family", E_DPO),
    "e-DPO, family, γ 0.1": ("family", e_dpo(forward_kl=0.1)),
    "e-DPO, family, γ 0.1, KL on the pairs": ("family", e_dpo(forward_kl=0.1, kl_on=PAIRS)),
    "e-DPO, family, γ 0.1, KL on two samples": ("family+2", e_dpo(forward_kl=0.1, kl_on=SAMPLES)),
}
"""By name, with the reward model that each reads."""


def show(*, short: bool) -> Shown:
    pairs, worlds, rates = (200, 2, (0.2, 0.8)) if short else (BIAS_PAIRS, WORLDS, BIAS_RATES)
    with TemporaryDirectory() as parts:
        gold = {rate: gold_of(rate, pairs, worlds, Path(parts)) for rate in rates}
    beside = {name: _beside(gold, name) for name in METHODS if name != OURS}
    against, overall = ({name: found[which] for name, found in beside.items()} for which in ("against", "all"))
    holds = all(against[name].sign > 0 and overall[name].mean >= 0 for name in ("dpo", ONE))
    rows = [("method", *(f"{rate:.0%}" for rate in rates), "mean", "family minus it, below 50 %", "over all rates")]
    for name in METHODS:
        gains = [gold[rate][name] for rate in rates]
        means = [f"{gain.mean():.2f} ± {gain.std(ddof=1) / np.sqrt(worlds):.2f}" for gain in gains]
        behind = ["", ""] if name == OURS else [_cell(against[name]), _cell(overall[name])]
        rows.append(("DPO" if name == "dpo" else name, *means, f"{np.mean(gains):.2f}", *behind))
    numbers: dict[str, Any] = {"worlds": worlds, "first_seed": FIRST_SEED, "main_budget": MAIN_BUDGET, "rates": rates}
    numbers["gold"] = {name: [gold[rate][name].round(4).tolist() for rate in rates] for name in METHODS}
    numbers["family_minus"] = {
        name: {which: as_numbers(interval) for which, interval in found.items()} for name, found in beside.items()
    }
    note = (
        f"Gain of gold reward over the reference in log-odds at KL(π‖π_ref) = {MAIN_BUDGET:g} nat, by the share of "
        f"pairs whose longer completion is chosen; mean and standard error of {worlds} worlds with seeds from "
        f"{FIRST_SEED} on. Differences with 95 % intervals, paired by world; bold: the interval excludes zero."
    )
    return Shown(CLAIM, holds, rows, numbers, note)


def gold_of(rate: float, pairs: int, worlds: int, parts: Path) -> dict[str, Floats]:
    """Gain of gold reward [W] of every method, in worlds of a rate."""
    arms = {name: Arm(name, model, build, "family") for name, (model, build) in METHODS.items()}
    settings = WorldSettings(pairs, longer_chosen=rate)
    regime = Regime(f"longer chosen {rate:.0%}", settings, tuple(arms), catalogue=arms, first_seed=FIRST_SEED)
    found = outcomes(regime, worlds, parts, source_digest())
    return {name: at(MAIN_BUDGET, "gold", of_arm) for name, of_arm in found.items()}


def _beside(gold: Mapping[float, Mapping[str, Floats]], name: str) -> dict[str, Interval]:
    """How much more the family gains than a method: mean over the rates below one half, and over all."""
    more = {rate: of_rate[OURS] - of_rate[name] for rate, of_rate in gold.items()}
    below = [values for rate, values in more.items() if rate < 0.5]
    return {"against": mean_interval(np.mean(below, axis=0)), "all": mean_interval(np.mean([*more.values()], axis=0))}


def _cell(change: Interval) -> str:
    return bold(f"{change.mean:+.2f} [{change.low:+.2f}, {change.high:+.2f}]", as_numbers(change))
