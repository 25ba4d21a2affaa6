"""The sentence says what the intervals allow, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from iwpo_fast.evaluation.arms import compared
from iwpo_fast.report.preferences import Preference, of_margins
from iwpo_fast.report.verdict import sentence


def judged(right: int, wrong: int, before: np.ndarray | None = None) -> Preference:
    margins = {"margin": np.repeat([1.0, -1.0], [right, wrong]), "cluster": np.zeros(right + wrong, dtype=np.int64)}
    return of_margins(margins | {"before": np.zeros(right + wrong) if before is None else before})[0]


@pytest.mark.parametrize(
    ("right", "said"),
    [(60, "more than chance"), (55, "cannot be told from chance"), (41, "cannot be told"), (40, "less than chance")],
)
def test_chance_is_left_only_where_the_interval_leaves_it(right: int, said: str) -> None:
    found = judged(right, 100 - right)
    assert said in sentence(found, {})
    assert found.low < right / 100 < found.high
    assert found.is_better == (found.low > 0.5) and found.is_worse == (found.high < 0.5)


def test_without_a_reference_the_same_pairs_before_training_are_what_one_compares_with() -> None:
    before = np.repeat([1.0, -1.0, 1.0], [40, 20, 40])
    found = judged(60, 40, before)
    assert found.before == 0.8 and found.is_worse and not found.is_chance
    assert "in 60.0\u00a0% of 100 held-out pairs" in sentence(found, {}) and "less than 80.0\u00a0% before" in sentence(
        found, {}
    )
    assert "cannot be told from 60.0\u00a0% before" in sentence(judged(60, 40, np.repeat([1.0, -1.0], [60, 40])), {})


@pytest.mark.parametrize(
    ("own", "said"), [(90, "better than plain DPO"), (52, "no difference is shown"), (10, "worse than plain DPO")]
)
def test_plain_dpo_is_beaten_only_where_the_paired_interval_says_so(own: int, said: str) -> None:
    margins = {"dpo": np.repeat([1.0, -1.0], [50, 50]), "run": np.repeat([1.0, -1.0], [own, 100 - own])}
    found = sentence(judged(own, 100 - own), compared(margins))
    assert said in found and found.endswith(".") and found.count(". ") == 0


def test_a_run_that_is_plain_dpo_is_said_to_be() -> None:
    rows = compared({"dpo": np.ones(9), "run": np.ones(9)})
    rows["dpo"]["same_as"] = "run"
    assert sentence(judged(9, 0), rows).endswith("; plain DPO is the same training.")
