"""The rewards that weights are made from, checked, and the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance.effective_size import is_large, noise_share

if TYPE_CHECKING:
    from iwpo_fast.rewards import PairTable

EVENED_BY = {
    "irpss": "raise weights.tau or weights.ess_target",
    "density_ratio": "raise weights.experimental.ratio_scale",
    "rejection": "raise weights.experimental.ratio_scale",
    "madpo": "lower weights.experimental.madpo_factor",
    "selective": "raise weights.experimental.selected_share",
}
"""What makes the weights of a formula less unequal."""


class Candidates(NamedTuple):
    """All C scored completions of the prompts, those in pairs and the others.

    Attributes:
        reward: float64 [C], calibrated rewards in log-odds.
        prompt: int64 [C], index of each completion's prompt, in any order.
    """

    reward: np.ndarray
    prompt: np.ndarray


@dataclass(frozen=True)
class PairRewards:
    """Calibrated rewards of P pairs in G clusters.

    Attributes:
        chosen, rejected: float64 [P], calibrated rewards in log-odds, finite.
        cluster: int64 [P] in 0..G-1, cluster of the pair's prompt.
        trust: float64 [G] in [0, 1], how far the rewards of each cluster can be trusted; 0 where they say nothing.
        prompt: int64 [P], index of the pair's prompt; needed with `candidates`.
        candidates: all scored completions of the prompts, for the baselines `group` and `shrunk`.
        noise: share of the reward gaps' mean square that is sampling noise (`noise_share`); None where it is not known.
        reliability: float64 [G] in [0, 1], of each cluster: 0 where chance explains all that its rewards say of labels;
            None where it is not known, and the trust stands in for it.

    Raises:
        ValueError: lengths differ, a reward is not finite, a trust or reliability is outside [0, 1], an index is out of
            range, or the noise is negative.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    cluster: np.ndarray
    trust: np.ndarray
    prompt: np.ndarray | None = None
    candidates: Candidates | None = None
    noise: float | None = None
    reliability: np.ndarray | None = None

    def __post_init__(self) -> None:
        pairs = len(self.chosen)
        if pairs == 0:
            raise ValueError("There are no pairs to weigh: give at least one.")
        _set(self, "chosen", _rewards(self.chosen, "chosen", pairs))
        _set(self, "rejected", _rewards(self.rejected, "rejected", pairs))
        _set(self, "cluster", _indices(self.cluster, "cluster", pairs))
        _set(self, "trust", np.asarray(self.trust, dtype=np.float64))
        if self.trust.ndim != 1 or not np.all((self.trust >= 0) & (self.trust <= 1)):
            raise ValueError("trust must be one number in [0, 1] for each cluster.")
        if self.cluster.max() >= len(self.trust):
            raise ValueError(
                f"A pair is in cluster {self.cluster.max()}, but trust has {len(self.trust)} entries: "
                "give one for each cluster."
            )
        if self.reliability is not None:
            _set(self, "reliability", np.asarray(self.reliability, dtype=np.float64))
            fits = self.reliability.shape == self.trust.shape
            if not (fits and np.all((self.reliability >= 0) & (self.reliability <= 1))):
                raise ValueError("reliability must be one number in [0, 1] for each cluster.")
        if self.noise is not None and not self.noise >= 0:
            raise ValueError(f"noise is {self.noise}: it must be 0 or more, or None where it is not known.")
        if self.prompt is not None:
            _set(self, "prompt", _indices(self.prompt, "prompt", pairs))
        if self.candidates is not None:
            self._check_candidates(*self.candidates)

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def clusters(self) -> int:
        """G."""
        return len(self.trust)

    @property
    def gap(self) -> np.ndarray:
        """float64 [P]: Δ, reward of the chosen minus reward of the rejected completion, in log-odds."""
        return self.chosen - self.rejected

    @property
    def spread(self) -> float:
        """Largest minus smallest reward of a completion."""
        candidates = [] if self.candidates is None else [self.candidates.reward]
        return float(np.ptp(np.concatenate([self.chosen, self.rejected, *candidates])))

    def _check_candidates(self, reward: np.ndarray, prompt: np.ndarray) -> None:
        rewards = _rewards(reward, "candidates.reward", len(reward))
        _set(self, "candidates", Candidates(rewards, _indices(prompt, "candidates.prompt", len(reward))))
        if self.prompt is None:
            raise ValueError("Candidates belong to prompts: give the prompt of each pair with them.")
        cluster_of_prompt = np.zeros(int(self.prompt.max()) + 1, dtype=np.int64)
        cluster_of_prompt[self.prompt] = self.cluster
        if np.any(cluster_of_prompt[self.prompt] != self.cluster):
            raise ValueError("Two pairs of one prompt are in different clusters: clusters belong to prompts.")


def pair_rewards(
    calibrated: np.ndarray,
    trust: np.ndarray,
    table: PairTable,
    prompt_cluster: np.ndarray,
    members: np.ndarray,
    reliability: np.ndarray | None = None,
) -> PairRewards:
    """Rewards of pairs from rewards of responses, as `RewardScores` has them.

    Args:
        calibrated: float64 [C], rewards of all responses in log-odds.
        trust: float64 [G] in [0, 1], of each cluster.
        table: the pairs that were scored.
        prompt_cluster: int64 [M], cluster of every prompt.
        members: float64 [C, members], calibrated rewards by each member of the ensemble.
        reliability: float64 [G] in [0, 1], of each cluster; None where it is not known.
    """
    return PairRewards(
        chosen=calibrated[table.chosen],
        rejected=calibrated[table.rejected],
        cluster=prompt_cluster[table.prompt],
        trust=trust,
        prompt=table.prompt,
        candidates=Candidates(reward=calibrated, prompt=table.prompt_of),
        noise=noise_share(members[table.chosen] - members[table.rejected]),
        reliability=reliability,
    )


@dataclass(frozen=True)
class PairWeights:
    """One weight and one label smoothing per pair, constants for the training.

    Attributes:
        weight: float64 [P], mean 1 in each cluster; 0 for a pair to skip. Under resampling the counts as floats.
        label_smoothing: float64 [P] in [0, 1), probability that the label is flipped.
        counts: int64 [P], how often resampling drew each pair; None under weighting.
        tau: temperature used; None where the method has none.
        ess: effective sample size (Σω)²/Σω² of the weights before resampling, as a fraction of the pairs.
        cluster_ess: float64 [G], the same for each cluster; NaN for a cluster without pairs.
        cluster_pairs: int64 [G], pairs of each cluster.
        agreed: all weights are 1 because the members of the ensemble agree (`ess_target: noise`).
    """

    weight: np.ndarray
    label_smoothing: np.ndarray
    counts: np.ndarray | None
    tau: float | None
    ess: float
    cluster_ess: np.ndarray
    cluster_pairs: np.ndarray
    agreed: bool = False

    def check(self, settings: WeightConfig) -> None:
        """Refuse weights that rest on too few pairs, over all or in a large cluster, unless `settings.force`.

        Raises:
            ValueError: an effective sample size is below `settings.min_ess`.
        """
        groups = [(self.ess, f"all {len(self.weight):,} pairs")]
        for k in np.flatnonzero(is_large(self.cluster_pairs)):
            groups.append((float(self.cluster_ess[k]), f"the {self.cluster_pairs[k]:,} pairs of cluster {k}"))
        low = [(ess, name) for ess, name in groups if not ess >= settings.min_ess]  # NaN is low too
        if low and not settings.force:
            lowest, name = min(low)
            raise ValueError(
                f"The effective sample size is {lowest:.1%} of {name}, below weights.min_ess {settings.min_ess:.1%}: "
                f"{EVENED_BY[settings.formula]}, lower weights.truncate, or set weights.force."
            )


def _set(instance: PairRewards, name: str, value: Any) -> None:
    object.__setattr__(instance, name, value)


def _rewards(values: np.ndarray, name: str, length: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (length,):
        raise ValueError(f"{name} has shape {array.shape}: it must be one number for each of {length:,}.")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds a reward that is not finite: score those completions again or leave them out.")
    return array


def _indices(values: np.ndarray, name: str, length: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer) or np.any(array < 0):
        raise ValueError(f"{name} must be {length:,} integers from 0 up, one for each reward.")
    return array.astype(np.int64, copy=False)
