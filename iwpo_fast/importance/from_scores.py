"""From the rewards of responses to the rewards of pairs."""

from __future__ import annotations

import numpy as np

from iwpo_fast.importance.noise import noise_share
from iwpo_fast.importance.types import Candidates, PairRewards
from iwpo_fast.rewards import PairTable


def pair_rewards(
    calibrated: np.ndarray, trust: np.ndarray, table: PairTable, prompt_cluster: np.ndarray, members: np.ndarray
) -> PairRewards:
    """What weights are made from.

    Args:
        calibrated: float64 [C], rewards of all responses in log-odds, as in `RewardScores`.
        trust: float64 [G] in [0, 1], of each cluster, as in `RewardScores`.
        table: the pairs that were scored.
        prompt_cluster: int64 [M], cluster of every prompt.
        members: float64 [C, members], rewards by each member of the ensemble, as in `RewardScores`.
    """
    return PairRewards(
        chosen=calibrated[table.chosen],
        rejected=calibrated[table.rejected],
        cluster=prompt_cluster[table.prompt],
        trust=trust,
        prompt=table.prompt,
        candidates=Candidates(reward=calibrated, prompt=table.prompt_of),
        noise=noise_share(members[table.chosen] - members[table.rejected]),
    )
