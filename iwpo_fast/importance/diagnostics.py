"""What the weights look like: effective sample sizes, histogram, and the pairs that count most."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from iwpo_fast.importance.types import PairRewards, PairWeights

BINS = 50
SHOWN = 100  # characters of a text on the terminal


@dataclass(frozen=True)
class PairText:
    """The texts of a pair."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ClusterSummary:
    """Weights of the pairs of one cluster.

    Attributes:
        cluster: its index.
        pairs: number of pairs.
        trust: trust in its rewards.
        ess: effective sample size, as a fraction of the pairs, before resampling.
        smallest, largest: extreme weights.
        skipped: fraction of the pairs with weight 0.
        label_smoothing: its mean.
    """

    cluster: int
    pairs: int
    trust: float
    ess: float
    smallest: float
    largest: float
    skipped: float
    label_smoothing: float


@dataclass(frozen=True)
class LargeWeight:
    """A pair that counts much.

    Attributes:
        pair: its row, from 0.
        cluster: its cluster.
        weight, label_smoothing: what it was given.
        chosen_reward, rejected_reward: calibrated rewards, in log-odds.
        text: its texts, if known.
    """

    pair: int
    cluster: int
    weight: float
    label_smoothing: float
    chosen_reward: float
    rejected_reward: float
    text: PairText | None


@dataclass(frozen=True)
class WeightReport:
    """Summary of the weights of P pairs.

    Attributes:
        pairs: P.
        tau: temperature; None where the method has none.
        ess: effective sample size of all pairs, as a fraction, before resampling.
        noise: share of noise in the rewards, as `PairRewards` has it.
        skipped: fraction of the pairs with weight 0.
        clusters: one summary for each cluster with pairs.
        edges, counts: histogram of the weights, B + 1 edges and B counts.
        largest: the pairs with the largest weights, largest first.
        agreed: all weights are 1 because the members of the ensemble agree.
    """

    pairs: int
    tau: float | None
    ess: float
    noise: float | None
    skipped: float
    clusters: list[ClusterSummary]
    edges: list[float]
    counts: list[int]
    largest: list[LargeWeight]
    agreed: bool

    @property
    def _why_even(self) -> str:
        return "the members of the ensemble agree" if self.noise else "the rewards tell no completion from another"

    def lines(self) -> list[str]:
        """The summary as lines for a terminal."""
        tau = "" if self.tau is None else f" | tau {self.tau:.3g}"
        noise = "" if self.noise is None else f" | noise of rewards {self.noise:.1%}"
        lines = [
            f"{self.pairs:,} pairs | ess {self.ess:.1%} | skipped {self.skipped:.1%}{tau}{noise}",
            *([f"{self._why_even}: all weights are 1"] if self.agreed else []),
            "cluster     pairs  trust    ess     min     max  skipped  label smoothing",
        ]
        for c in self.clusters:
            lines.append(
                f"{c.cluster:7d} {c.pairs:9,} {c.trust:6.2f} {c.ess:6.1%} {c.smallest:7.3f} {c.largest:7.3f} "
                f"{c.skipped:8.1%} {c.label_smoothing:16.3f}"
            )
        for large in self.largest:
            lines.append(
                f"weight {large.weight:.2f} | pair {large.pair} of cluster {large.cluster} | label smoothing "
                f"{large.label_smoothing:.2f} | rewards {large.chosen_reward:+.2f} {large.rejected_reward:+.2f}"
            )
            if large.text is not None:
                lines += [f"  {name:8}  {_shown(text)}" for name, text in asdict(large.text).items()]
        return lines

    def to_json(self) -> dict[str, Any]:
        """The same as plain values that JSON can hold, texts in full; an infinite temperature becomes a string."""
        tau = self.tau if self.tau is None or math.isfinite(self.tau) else str(self.tau)
        return asdict(self) | {"tau": tau}


def weight_report(
    weights: PairWeights, rewards: PairRewards, *, texts: Callable[[int], PairText] | None = None, largest: int = 10
) -> WeightReport:
    """Summarise weights made from rewards.

    Args:
        texts: the texts of a pair by its row; asked for the largest weights only.
        largest: how many of the largest weights to list; ties go to the earlier row.
    """
    weight, cluster, clusters = weights.weight, rewards.cluster, rewards.clusters
    assert len(weight) == len(rewards)
    size = weights.cluster_pairs
    smallest_of = np.full(clusters, np.inf)
    np.minimum.at(smallest_of, cluster, weight)
    largest_of = np.full(clusters, -np.inf)
    np.maximum.at(largest_of, cluster, weight)
    skipped = np.bincount(cluster, weight == 0, clusters)
    smoothing = np.bincount(cluster, weights.label_smoothing, clusters)
    counts, edges = np.histogram(weight, bins=BINS, range=(0.0, float(weight.max())))
    return WeightReport(
        pairs=len(weight),
        tau=weights.tau,
        ess=weights.ess,
        noise=rewards.noise,
        skipped=float(np.mean(weight == 0)),
        clusters=[
            ClusterSummary(
                cluster=k,
                pairs=int(size[k]),
                trust=float(rewards.trust[k]),
                ess=float(weights.cluster_ess[k]),
                smallest=float(smallest_of[k]),
                largest=float(largest_of[k]),
                skipped=float(skipped[k] / size[k]),
                label_smoothing=float(smoothing[k] / size[k]),
            )
            for k in np.flatnonzero(size).tolist()
        ],
        edges=edges.tolist(),
        counts=counts.tolist(),
        largest=[
            LargeWeight(
                pair=i,
                cluster=int(cluster[i]),
                weight=float(weight[i]),
                label_smoothing=float(weights.label_smoothing[i]),
                chosen_reward=float(rewards.chosen[i]),
                rejected_reward=float(rewards.rejected[i]),
                text=None if texts is None else texts(i),
            )
            for i in np.argsort(-weight, kind="stable")[:largest].tolist()
        ],
        agreed=weights.agreed,
    )


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
