"""Rewards by a reward model that another run has learnt and calibrated, in the clusters of this one."""

from __future__ import annotations

import numpy as np

from iwpo_fast.rewards.blocks import Ints
from iwpo_fast.rewards.calibration import Calibration, Float64s
from iwpo_fast.rewards.learnt_rewards import Scores
from iwpo_fast.rewards.pair_table import PairTable
from iwpo_fast.rewards.report import report_rewards
from iwpo_fast.rewards.scores import RewardScores


def calibrated_elsewhere(
    scores: Scores,
    calibration: Calibration,
    table: PairTable,
    prompt_cluster: Ints,
    others: tuple[Ints, Scores] | None = None,
) -> RewardScores:
    """Scores of responses from those of pairs, as they are: centre 0 and slope 1.

    Trust and reliability of a cluster are the means, over its pairs, of those of the clusters that the reward model put
    their prompts into.

    Args:
        scores: [P, 2], of chosen and rejected.
        calibration: of the reward model, by its own clusters.
        prompt_cluster: [M] int64, clusters of this run.
        others: rows [K] of responses that may be in no pair, and their scores [K].
    """
    pair_cluster, clusters = prompt_cluster[table.prompt], int(prompt_cluster.max()) + 1

    def by_response(name: str) -> np.ndarray:
        values = getattr(scores, name)
        found = np.full((len(table.prompt_of), *values.shape[2:]), np.nan, dtype=values.dtype)
        if others is not None:
            found[others[0]] = getattr(others[1], name)
        found[table.chosen], found[table.rejected] = values[:, 0], values[:, 1]
        return found

    def by_cluster(values: Float64s) -> Float64s:
        pairs = np.bincount(pair_cluster, minlength=clusters)
        of_pairs = values[scores.cluster[:, 0]]
        return np.bincount(pair_cluster, weights=of_pairs, minlength=clusters) / np.maximum(pairs, 1)

    trust, reliability = by_cluster(calibration.trust), by_cluster(calibration.reliability)
    slope, raw, calibrated = np.ones(clusters), by_response("raw"), by_response("score")
    report = report_rewards(raw.mean(axis=1), calibrated, slope, trust, table, pair_cluster)
    return RewardScores(
        raw=raw,
        calibrated=calibrated,
        members_calibrated=by_response("members"),
        trust=trust,
        slope=slope,
        centre=np.zeros(clusters),
        reliability=reliability,
        report=report | {"penalties": None},
    )
