"""What a user is told about the rewards of each cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.rewards.calibration import Calibration
from iwpo_fast.rewards.measures import calibration_error, overlap, pair_accuracy
from iwpo_fast.rewards.pair_table import PairTable
from iwpo_fast.rewards.penalties import Penalties

Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class ClusterReport:
    """One cluster, or all pairs (`cluster` None, and no slope or trust of its own).

    Attributes:
        accuracy: fraction of pairs whose chosen response has more reward.
        overlap: 1 - AUC of the cluster's own chosen and rejected rewards, which no calibration can change.
        overlap_before, overlap_after: 1 - AUC of the cluster's chosen rewards and the rejected ones of *all* clusters,
            before and after calibration: what comparing rewards across clusters costs.
        calibration_error: expected calibration error of σ(Δ) after calibration.
    """

    cluster: int | None
    pairs: int
    accuracy: float
    overlap: float
    overlap_before: float
    overlap_after: float
    calibration_error: float
    slope: float | None
    trust: float | None


@dataclass(frozen=True)
class RewardReport:
    """All clusters, all pairs together, and how the heads were made (None for rewards from elsewhere)."""

    clusters: list[ClusterReport]
    total: ClusterReport
    penalties: Penalties | None

    def lines(self) -> Iterator[str]:
        """A table for the terminal."""
        yield "cluster    pairs  accuracy  overlap  across before  after  calibration error  slope  trust"
        for row in [*self.clusters, self.total]:
            name = "all" if row.cluster is None else str(row.cluster)
            fit = "" if row.slope is None else f"  {row.slope:5.2f}  {row.trust:5.2f}"
            yield (
                f"{name:>7}  {row.pairs:>7,}  {row.accuracy:8.3f}  {row.overlap:7.3f}  {row.overlap_before:13.3f}  "
                f"{row.overlap_after:5.3f}  {row.calibration_error:17.3f}{fit}"
            )
        if self.penalties is not None:
            residual = "no residuals" if self.penalties.residual is None else f"residual {self.penalties.residual:.1e}"
            yield f"reward heads: ridge {self.penalties.ridge:.1e}, {residual}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def report_rewards(
    raw: Float64s,
    calibrated: Float64s,
    calibration: Calibration,
    table: PairTable,
    pair_cluster: NDArray[np.int64],
    penalties: Penalties | None,
) -> RewardReport:
    """From mean raw rewards [C] and calibrated rewards [C]."""
    before = raw[table.chosen], raw[table.rejected]
    after = calibrated[table.chosen], calibrated[table.rejected]

    def row(cluster: int | None) -> ClusterReport:
        own = np.ones(len(table), dtype=bool) if cluster is None else pair_cluster == cluster
        return ClusterReport(
            cluster=cluster,
            pairs=int(own.sum()),
            accuracy=pair_accuracy(before[0][own] - before[1][own]),
            overlap=overlap(before[0][own], before[1][own]),
            overlap_before=overlap(before[0][own], before[1]),
            overlap_after=overlap(after[0][own], after[1]),
            calibration_error=calibration_error(after[0][own] - after[1][own]),
            slope=None if cluster is None else float(calibration.slope[cluster]),
            trust=None if cluster is None else float(calibration.trust[cluster]),
        )

    return RewardReport([row(k) for k in range(len(calibration.slope))], row(None), penalties)
