"""The regimes: which worlds, which arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab.exact.arms import ARMS, Arm
from lab.exact.policy import TrainSettings
from lab.exact.worlds import WorldSettings

OVERLAP = ("overlap", "soft_overlap")  # slow to fit: in two regimes only
NOT_HERE = ("e_dpo_biased_family", "hidden_states")  # for the curve over the bias, and for language models
MAIN = ("dpo", "iwpo", "soft_ensemble", "default", "labels_only", "cheap_rival", "d_dpo", "e_dpo", "oracle")
BIAS_ARMS = ("dpo", "default", "iwpo", "soft_ensemble", "d_dpo", "e_dpo", "e_dpo_biased_family", "p_dpo", "cheap_rival")
BIAS_RATES = (0.2, 0.35, 0.5, 0.65, 0.8)
BIAS_PAIRS = 2000
LINEAR = TrainSettings(hidden=0)


@dataclass(frozen=True)
class Regime:
    """One row of the table.

    Attributes:
        name: unique.
        settings: of its worlds.
        arms: names; `dpo` is the first.
        training: of its policies.
        catalogue: what the names of arms stand for.
        first_seed: of its worlds.
    """

    name: str
    settings: WorldSettings
    arms: tuple[str, ...]
    training: TrainSettings = field(default_factory=TrainSettings)
    catalogue: Mapping[str, Arm] = field(default_factory=lambda: ARMS)
    first_seed: int = 0


def regime(
    name: str, settings: WorldSettings, training: TrainSettings | None = None, *, overlap: bool = False
) -> Regime:
    """With all arms that belong into the main table."""
    left_out = {*NOT_HERE, *(() if overlap else OVERLAP)}
    arms = tuple(arm for arm in ARMS if arm not in left_out)
    return Regime(name, settings, arms, training or TrainSettings())


def main_regime(name: str, settings: WorldSettings) -> Regime:
    """With the main arms alone, for regimes beside those where every arm is tried."""
    return Regime(name, settings, MAIN)


def bias_regime(rate: float) -> Regime:
    """Of the curve over the rate at which the longer completion is chosen."""
    return Regime(f"longer chosen {rate:.0%}", WorldSettings(BIAS_PAIRS, longer_chosen=rate), BIAS_ARMS)


FULL: Sequence[Regime] = (
    regime("300 pairs", WorldSettings(300), overlap=True),
    regime("1,000 pairs", WorldSettings(1000), overlap=True),
    regime("4,000 pairs", WorldSettings(4000)),
    main_regime("16,000 pairs", WorldSettings(16_000)),
    regime("2,000 pairs, no noise", WorldSettings(2000, noise=0.0)),
    regime("2,000 pairs, 20 % noise", WorldSettings(2000, noise=0.2)),
    regime("2,000 pairs, 30 % noise", WorldSettings(2000, noise=0.3)),
    main_regime("2,000 pairs, 8 tasks", WorldSettings(2000, tasks=8)),
    main_regime("2,000 pairs, off-policy", WorldSettings(2000, off_policy=True)),
    main_regime("2,000 pairs, 4 candidates", WorldSettings(2000, candidates=4)),
    main_regime("2,000 pairs, conflicting tasks", WorldSettings(2000, conflict=True)),
    regime("2,000 pairs, length bias", WorldSettings(2000, longer_chosen=0.8)),
    regime("1,000 pairs, reward partly unseen", WorldSettings(1000, unseen=0.5)),
    regime("4,000 pairs, reward partly unseen", WorldSettings(4000, unseen=0.5)),
    regime("1,000 pairs, linear policy", WorldSettings(1000), LINEAR),
    regime("4,000 pairs, linear policy", WorldSettings(4000), LINEAR),
)
SHORT: Sequence[Regime] = (
    regime("300 pairs", WorldSettings(300)),
    regime("1,000 pairs", WorldSettings(1000)),
    regime("1,000 pairs, reward partly unseen", WorldSettings(1000, unseen=0.5)),
)
FULL_BIAS: Sequence[Regime] = tuple(bias_regime(rate) for rate in BIAS_RATES)
SHORT_BIAS: Sequence[Regime] = (bias_regime(0.2), bias_regime(0.8))
