from __future__ import annotations

import numpy as np

from iwpo_fast.config import RewardConfig, WeightConfig
from iwpo_fast.importance import pair_weights
from iwpo_fast.importance.from_scores import pair_rewards
from iwpo_fast.importance.noise import noise_share
from iwpo_fast.rewards import PairTable, scores_from_columns


def test_scores_of_responses_become_rewards_of_pairs_that_can_be_weighed():
    draw = np.random.default_rng(0)
    chosen, rejected = draw.standard_normal((2, 400)) + np.array([[0.5], [0.0]])
    prompt_cluster = np.arange(400) % 2
    table = PairTable.plain(np.arange(400))
    scores = scores_from_columns(chosen, rejected, table, prompt_cluster, RewardConfig())
    rewards = pair_rewards(scores.calibrated, scores.trust, table, prompt_cluster, scores.members_calibrated)
    assert (rewards.chosen == scores.calibrated[::2]).all()
    assert (rewards.rejected == scores.calibrated[1::2]).all()
    assert (rewards.cluster == prompt_cluster).all()
    assert np.corrcoef(rewards.gap, chosen - rejected)[0, 1] > 0.99
    assert rewards.noise is None  # one score of each response
    weights = pair_weights(rewards, WeightConfig(), seed=0)
    for cluster in range(2):
        np.testing.assert_allclose(weights.weight[prompt_cluster == cluster].mean(), 1.0)


def test_an_ensemble_of_judges_that_agree_on_other_scales_leaves_plain_dpo() -> None:
    score = np.random.default_rng(2).standard_normal(600)
    chosen, rejected = (np.stack([part, 10 * part + 5], axis=1) for part in (score[:300] + 0.5, score[300:]))
    table, prompt_cluster = PairTable.plain(np.arange(300)), np.zeros(300, dtype=np.int64)
    scores = scores_from_columns(chosen, rejected, table, prompt_cluster, RewardConfig())
    rewards = pair_rewards(scores.calibrated, scores.trust, table, prompt_cluster, scores.members_calibrated)
    assert rewards.noise is not None and rewards.noise < 1e-12
    assert pair_weights(rewards, WeightConfig(), seed=0).agreed


def test_the_noise_of_rewards_is_that_of_the_members_gaps() -> None:
    members = np.random.default_rng(1).standard_normal((800, 4)) + np.tile([1.0, 0.0], 400)[:, None]
    table = PairTable.plain(np.arange(400))
    rewards = pair_rewards(members.mean(1), np.ones(1), table, np.zeros(400, dtype=np.int64), members)
    assert rewards.noise == noise_share(members[::2] - members[1::2])
