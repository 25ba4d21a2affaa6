"""The pairs that heads are trained on, with their features in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from iwpo_fast.config import RewardConfig
from iwpo_fast.rewards.blocks import SideBySide
from iwpo_fast.rewards.feature_matrix import FeatureMatrix, Standardise
from iwpo_fast.rewards.heads import HeadProblem, Heads, fit_heads, incidence
from iwpo_fast.rewards.overlap import partners
from iwpo_fast.rewards.pair_table import PairTable


@dataclass(frozen=True)
class TrainingPairs:
    """P pairs, ready for heads with any weights and penalties.

    Attributes:
        units: how features were standardised.
        features: of the n responses that are in a pair.
        compared, added: [P, n], difference and sum of a pair's rewards.
        across: [T, n], differences across pairs i and j of a cluster; T is 0 without the overlap term.
        across_pairs: i, j and weight, [T] each.
        prompt, cluster, fold: [P] int64.
        clusters: G.
    """

    units: Standardise
    features: FeatureMatrix
    compared: csr_array
    added: csr_array
    across: csr_array
    across_pairs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
    prompt: NDArray[np.int64]
    cluster: NDArray[np.int64]
    fold: NDArray[np.int64]
    clusters: int
    settings: RewardConfig

    @classmethod
    def read(
        cls,
        response_features: SideBySide,
        table: PairTable,
        prompt_cluster: NDArray[np.int64],
        prompt_fold: NDArray[np.int64],
        settings: RewardConfig,
        *,
        seed: int,
    ) -> TrainingPairs:
        """Read the features of all responses in pairs: 4nd bytes of memory."""
        clusters = int(prompt_cluster.max()) + 1
        rows = np.unique(np.concatenate([table.chosen, table.rejected]))
        units = Standardise.fit(response_features, rows)
        row_cluster = prompt_cluster[table.prompt_of[rows]]
        order = np.argsort(row_cluster, kind="stable")
        rows, row_cluster = rows[order], row_cluster[order]
        place = np.empty(len(table.prompt_of), dtype=np.int64)
        place[rows] = np.arange(len(rows))
        chosen, rejected = place[table.chosen], place[table.rejected]

        cluster = prompt_cluster[table.prompt]
        nobody = np.empty(0, dtype=np.int64)
        across = partners(cluster, seed) if settings.overlap else (nobody, nobody, np.empty(0))
        return cls(
            units=units,
            features=FeatureMatrix.read(response_features, rows, row_cluster, clusters, units),
            compared=incidence(chosen, rejected, -1, len(rows)),
            added=incidence(chosen, rejected, 1, len(rows)),
            across=incidence(chosen[across[0]], rejected[across[1]], -1, len(rows)),
            across_pairs=across,
            prompt=table.prompt,
            cluster=cluster,
            fold=prompt_fold[table.prompt],
            clusters=clusters,
            settings=settings,
        )

    def fit(
        self, weights: NDArray[np.floating], ridge: NDArray[np.floating], residual: NDArray[np.floating] | None
    ) -> Heads:
        """Fit m heads.

        Args:
            weights: [P, m], of the pairs for each head; only their proportions matter.
            ridge: [m], penalties of the shared vectors.
            residual: [m], penalties of the residuals; None leaves residuals out.
        """
        weights = weights / weights.sum(axis=0)
        compared, compared_weight = self.compared, weights
        if self.settings.overlap:
            first, second, stands_for = self.across_pairs
            across_weight = weights[first] * weights[second] * stands_for[:, None]
            across_weight *= self.settings.overlap / np.maximum(across_weight.sum(axis=0), 1e-300)
            compared = vstack([compared, self.across], format="csr")
            compared_weight = np.concatenate([weights, across_weight])
        penalty = [ridge] if residual is None else [ridge] + [residual] * self.clusters
        return fit_heads(
            HeadProblem(
                features=self.features,
                compared=compared,
                compared_weight=compared_weight.astype(np.float32),
                added=self.added,
                added_weight=(self.settings.centring * weights).astype(np.float32),
                penalty=np.stack(penalty).astype(np.float32),
            )
        )
