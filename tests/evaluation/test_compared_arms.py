"""Rows and sentences of a comparison of arms."""

from __future__ import annotations

import numpy as np
import pytest

from iwpo_fast.evaluation.arms import compared, verdict


def margins(right: int, wrong: int) -> np.ndarray:
    return np.concatenate([np.ones(right), -np.ones(wrong)])


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (180, "posterior labels alone: better, +30.0 points of accuracy beside dpo (95 % interval +2"),
        (60, "posterior labels alone: worse, -30.0 points of accuracy beside dpo (95 % interval -3"),
        (121, "posterior labels alone: nothing that 200 held-out pairs can show, +0.5 points of accuracy beside dpo"),
    ],
)
def test_a_part_did_what_its_paired_interval_shows(right, said) -> None:
    rows = compared({"dpo": margins(120, 80), "labels": margins(right, 200 - right)})
    assert verdict("labels", rows["labels"], same=False).startswith(said)
    assert "difference" not in rows["dpo"]
    assert rows["labels"]["accuracy"] == right / 200 and rows["labels"]["low"] < right / 200 < rows["labels"]["high"]


def test_equal_pairs_are_said_to_change_nothing() -> None:
    rows = compared({"dpo": margins(3, 1), "weights": margins(3, 1)})
    assert verdict("weights", rows["weights"], same=True) == (
        "weights between pairs alone: nothing, because weights and labels are those of dpo"
    )
