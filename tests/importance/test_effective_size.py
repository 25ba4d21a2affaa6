from __future__ import annotations

import numpy as np
import pytest

from iwpo_fast.importance.effective_size import ess_fraction, is_large


def test_equal_weights_on_a_part_of_the_pairs_have_the_size_of_that_part() -> None:
    weight = np.array([4.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    overall, each = ess_fraction(weight, np.array([0, 0, 0, 0, 2, 2]), 3)
    assert each[0] == 0.25 and np.isnan(each[1]) and each[2] == 1.0
    assert overall == pytest.approx(6**2 / (6 * 18))


def test_a_cluster_is_large_from_256_pairs_or_if_it_is_the_largest() -> None:
    assert is_large(np.array([255, 256, 3000])).tolist() == [False, True, True]
    assert is_large(np.array([10, 200, 0])).tolist() == [False, True, False]
