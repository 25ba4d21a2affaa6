"""From the rewards of responses to the rewards of pairs."""

from __future__ import annotations

import numpy as np

from iwpo_fast.importance.types import Candidates, PairRewards
from iwpo_fast.rewards import PairTable, RewardScores


def pair_rewards(scores: RewardScores, table: PairTable, prompt_cluster: np.ndarray) -> PairRewards:
    """What weights are made from.

    Args:
        scores: calibrated rewards of all responses.
        table: the pairs that were scored.
        prompt_cluster: int64 [M], cluster of every prompt.
    """
    return PairRewards(
        chosen=scores.calibrated[table.chosen],
        rejected=scores.calibrated[table.rejected],
        cluster=prompt_cluster[table.prompt],
        trust=scores.trust,
        prompt=table.prompt,
        candidates=Candidates(reward=scores.calibrated, prompt=table.prompt_of),
    )
