from __future__ import annotations

import numpy as np
import pytest

from iwpo_fast.rewards import PairTable


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_plain_pairs_have_two_responses_each() -> None:
    table = PairTable.plain(rows(3, 0, 3))
    assert table.chosen.tolist() == [0, 2, 4]
    assert table.rejected.tolist() == [1, 3, 5]
    assert table.prompt_of.tolist() == [3, 3, 0, 0, 3, 3]
    assert table.pairs_per_prompt(5).tolist() == [1, 0, 0, 2, 0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rejected": rows(1)}, "2 prompts, 2 chosen and 1 rejected"),
        ({"chosen": rows(0, 4)}, "chosen row lies outside the 4 responses"),
        ({"rejected": rows(1, 1)}, "rejected response of pair 1 belongs to another prompt"),
        ({"prompt_of": np.array([0.0, 0.0, 1.0, 1.0])}, "prompt_of has shape"),
        ({"prompt": rows(), "chosen": rows(), "rejected": rows()}, "no pairs"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(changed, message) -> None:
    fields = {"prompt": rows(0, 1), "chosen": rows(0, 2), "rejected": rows(1, 3), "prompt_of": rows(0, 0, 1, 1)}
    with pytest.raises(ValueError, match=message):
        PairTable(**fields | changed)
