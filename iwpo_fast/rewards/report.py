"""What a user is told about the rewards of each cluster: accuracy, overlap, calibration error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from iwpo_fast.rewards.calibration import Calibration
from iwpo_fast.rewards.pair_table import PairTable

Float64s = NDArray[np.float64]

BINS = 10


@dataclass(frozen=True)
class RewardReport:
    """How good the rewards of each cluster are, and how the heads were made.

    Attributes:
        clusters: a row for each cluster, with
            - its index `cluster`, number of `pairs`, `slope` and `trust`;
            - `accuracy`: fraction of pairs whose chosen response has more reward;
            - `overlap`: 1 - AUC of its own chosen and rejected rewards, which no calibration can change;
            - `overlap_before`, `overlap_after`: 1 - AUC of its chosen rewards and the rejected ones of *all* clusters,
              before and after calibration: what comparing rewards across clusters costs;
            - `calibration_error`: expected calibration error of σ(Δ) after calibration.
        total: the same of all pairs, where `cluster`, `slope` and `trust` are None.
        penalties: `ridge` and `residual` of the heads and the `trials` of their choice, as `choose_penalties` gives
            them; None for rewards that no heads made.
    """

    clusters: list[dict[str, Any]]
    total: dict[str, Any]
    penalties: dict[str, Any] | None

    def lines(self) -> Iterator[str]:
        """A table for the terminal."""
        yield "cluster    pairs  accuracy  overlap  across before  after  calibration error  slope  trust"
        for row in [*self.clusters, self.total]:
            name = "all" if row["cluster"] is None else str(row["cluster"])
            fit = "" if row["slope"] is None else f"  {row['slope']:5.2f}  {row['trust']:5.2f}"
            yield (
                f"{name:>7}  {row['pairs']:>7,}  {row['accuracy']:8.3f}  {row['overlap']:7.3f}  "
                f"{row['overlap_before']:13.3f}  {row['overlap_after']:5.3f}  {row['calibration_error']:17.3f}{fit}"
            )
        if self.penalties is not None:
            ridge, residual = self.penalties["ridge"], self.penalties["residual"]
            residuals = "no residuals" if residual is None else f"residual {residual:.1e}"
            yield f"reward heads: ridge {ridge:.1e}, {residuals}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def report_rewards(
    raw: Float64s,
    calibrated: Float64s,
    calibration: Calibration,
    table: PairTable,
    pair_cluster: NDArray[np.int64],
    penalties: dict[str, Any] | None,
) -> RewardReport:
    """From mean raw rewards [C] and calibrated rewards [C]."""
    before = raw[table.chosen], raw[table.rejected]
    after = calibrated[table.chosen], calibrated[table.rejected]

    def row(cluster: int | None) -> dict[str, Any]:
        own = np.ones(len(table), dtype=bool) if cluster is None else pair_cluster == cluster
        return {
            "cluster": cluster,
            "pairs": int(own.sum()),
            "accuracy": pair_accuracy(before[0][own] - before[1][own]),
            "overlap": overlap(before[0][own], before[1][own]),
            "overlap_before": overlap(before[0][own], before[1]),
            "overlap_after": overlap(after[0][own], after[1]),
            "calibration_error": calibration_error(after[0][own] - after[1][own]),
            "slope": None if cluster is None else float(calibration.slope[cluster]),
            "trust": None if cluster is None else float(calibration.trust[cluster]),
        }

    return RewardReport([row(k) for k in range(len(calibration.slope))], row(None), penalties)


def pair_accuracy(gaps: Float64s) -> float:
    """Fraction of pairs whose chosen response has more reward; ties count half. NaN without pairs."""
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean()) if len(gaps) else float("nan")


def overlap(chosen: Float64s, rejected: Float64s) -> float:
    """1 - AUC: probability that a rejected response has more reward than a chosen one, both random; ties count half."""
    if not len(chosen) or not len(rejected):
        return float("nan")
    ordered = np.sort(rejected)
    below = np.searchsorted(ordered, chosen, side="left") + np.searchsorted(ordered, chosen, side="right")
    return float(1 - below.mean() / (2 * len(rejected)))


def calibration_error(gaps: Float64s) -> float:
    """Expected calibration error of "the label is right with probability σ(Δ)", in ten bins of confidence.

    A pair has confidence max(σ(Δ), σ(-Δ)) in whichever response has more reward, and that is right or not.
    """
    if not len(gaps):
        return float("nan")
    confidence = expit(np.abs(gaps))
    right = (gaps > 0) + 0.5 * (gaps == 0)
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, weights=right - confidence, minlength=BINS)).sum() / len(gaps))
