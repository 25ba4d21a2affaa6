from __future__ import annotations

import numpy as np

from iwpo_fast.rewards.blocks import float32_blocks, standardisation


def test_groups_of_features_share_the_square_norm_whatever_their_sizes_and_units() -> None:
    random = np.random.default_rng(0)
    many, one = random.normal(3, 50, (400, 30)).astype(np.float32), random.normal(-2, 0.1, (400, 1)).astype(np.float32)
    features = (many, one, np.ones((400, 2), np.float32))
    mean, scale = standardisation(features, np.arange(400))
    (_, values), *_ = float32_blocks(features)
    squares = np.square((values - mean) * scale).mean(axis=0)
    np.testing.assert_allclose(squares, [*[0.5 / 30] * 30, 0.5, 0, 0], rtol=1e-3)


def test_rounding_errors_beside_other_features_are_not_read_but_a_small_group_of_its_own_is() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((400, 6)).astype(np.float32)
    features[:, 2] *= 1e-33
    features[:, 4] *= 1e-4
    small = (1e-9 * random.standard_normal((400, 1))).astype(np.float32)
    _, scale = standardisation((features, small), np.arange(400))
    assert (scale == 0).tolist() == [False, False, True, False, False, False, False]
