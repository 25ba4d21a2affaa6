"""What the weights look like: effective sample sizes, histogram, and the pairs that count most."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iwpo_fast.files import written_aside
from iwpo_fast.importance.types import PairRewards, PairWeights

BINS = 50
SHOWN = 100  # characters of a text on the terminal


class PairText(NamedTuple):
    """The texts of a pair."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class WeightReport:
    """Summary of the weights of P pairs.

    Attributes:
        pairs: P.
        tau: temperature; None where the method has none.
        ess: effective sample size of all pairs, as a fraction, before resampling.
        noise: share of noise in the rewards, as `PairRewards` has it.
        skipped: fraction of the pairs with weight 0.
        clusters: for each cluster with pairs its index `cluster`, number of `pairs`, `trust` in its rewards, `ess` as
            above, `smallest` and `largest` weight, fraction `skipped`, and mean `label_smoothing`.
        edges, counts: histogram of the weights, B + 1 edges and B counts.
        largest: for the pairs with the largest weights, largest first: the row `pair`, from 0, `cluster`, `weight`,
            `label_smoothing`, calibrated `chosen_reward` and `rejected_reward`, and the `text` by its names, or None.
        agreed: all weights are 1 because the members of the ensemble agree.
    """

    pairs: int
    tau: float | None
    ess: float
    noise: float | None
    skipped: float
    clusters: list[dict[str, Any]]
    edges: list[float]
    counts: list[int]
    largest: list[dict[str, Any]]
    agreed: bool

    def lines(self) -> list[str]:
        """The summary as lines for a terminal."""
        tau = "" if self.tau is None else f" | tau {self.tau:.3g}"
        noise = "" if self.noise is None else f" | noise of rewards {self.noise:.1%}"
        lines = [f"{self.pairs:,} pairs | ess {self.ess:.1%} | skipped {self.skipped:.1%}{tau}{noise}"]
        if self.agreed:
            cause = "the members of the ensemble agree" if self.noise else "the rewards tell no completion from another"
            lines.append(f"{cause}: all weights are 1")
        lines.append("cluster     pairs  trust    ess     min     max  skipped  label smoothing")
        for c in self.clusters:
            lines.append(
                "{cluster:7d} {pairs:9,} {trust:6.2f} {ess:6.1%} {smallest:7.3f} {largest:7.3f} {skipped:8.1%} "
                "{label_smoothing:16.3f}".format(**c)
            )
        for large in self.largest:
            lines.append(
                "weight {weight:.2f} | pair {pair} of cluster {cluster} | label smoothing {label_smoothing:.2f} | "
                "rewards {chosen_reward:+.2f} {rejected_reward:+.2f}".format(**large)
            )
            lines += [f"  {name:8}  {_shown(text)}" for name, text in (large["text"] or {}).items()]
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
            {
                "cluster": k,
                "pairs": int(size[k]),
                "trust": float(rewards.trust[k]),
                "ess": float(weights.cluster_ess[k]),
                "smallest": float(smallest_of[k]),
                "largest": float(largest_of[k]),
                "skipped": float(skipped[k] / size[k]),
                "label_smoothing": float(smoothing[k] / size[k]),
            }
            for k in np.flatnonzero(size).tolist()
        ],
        edges=edges.tolist(),
        counts=counts.tolist(),
        largest=[
            {
                "pair": i,
                "cluster": int(cluster[i]),
                "weight": float(weight[i]),
                "label_smoothing": float(weights.label_smoothing[i]),
                "chosen_reward": float(rewards.chosen[i]),
                "rejected_reward": float(rewards.rejected[i]),
                "text": None if texts is None else texts(i)._asdict(),
            }
            for i in np.argsort(-weight, kind="stable")[:largest].tolist()
        ],
        agreed=weights.agreed,
    )


def save_histogram(path: Path, report: WeightReport) -> None:
    """Draw the histogram of the weights as a PNG; a kill leaves no half-written file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.add_subplot()
    axis.stairs(report.counts, report.edges, fill=True, color="#2471a3")
    axis.axvline(1.0, color="#7f8c8d", linewidth=1)
    axis.set(yscale="symlog", xlabel="weight (line: the mean, 1)", ylabel="pairs")
    axis.set_title(f"{report.pairs:,} pairs, effective sample size {report.ess:.1%}", loc="left", fontsize=10)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
