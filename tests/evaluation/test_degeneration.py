"""Probes of degenerated answers."""

from __future__ import annotations

import pytest

from iwpo_fast.evaluation.degeneration import probes, repetition


def test_repetition_is_the_share_of_four_grams_that_stood_there_before() -> None:
    assert repetition([1, 2, 3, 4, 5, 6, 7, 8]) == 0
    assert repetition([1, 2, 3, 4] * 2) == pytest.approx(1 / 5)
    assert repetition([7] * 23) == pytest.approx(1 - 1 / 20)
    assert repetition([1, 2, 3]) == repetition([]) == 0


def test_every_answer_is_looked_at_by_itself() -> None:
    found = probes([[7] * 23, [], [1, 2, 3, 4, 5]], [False, True, True])
    assert found["tokens"].tolist() == [23, 0, 5]
    assert found["empty"].tolist() == [0, 1, 0] and found["ended"].tolist() == [0, 1, 1]
    assert found["loops"].tolist() == [1, 0, 0]
