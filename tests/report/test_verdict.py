"""The sentences say what the intervals allow, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from iwpo_fast.evaluation.arms import compared
from iwpo_fast.evaluation.preference import preference_accuracy
from iwpo_fast.report.preferences import Preference, of_margins
from iwpo_fast.report.verdict import sentences


def judged(right: int, wrong: int, before: np.ndarray | None = None, prompts: int | None = None) -> Preference:
    pairs = right + wrong
    margins = {"margin": np.repeat([1.0, -1.0], [right, wrong]), "cluster": np.zeros(pairs, dtype=np.int64)}
    margins |= {} if prompts is None else {"prompt": np.arange(pairs) % prompts}
    return of_margins(margins | {"before": np.zeros(pairs) if before is None else before})[0]


def said_of(found: Preference) -> str:
    return sentences(found, {}).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (60, "That is better than chance."),
        (55, "These pairs show no difference."),
        (41, "These pairs show no difference."),
        (40, "That is worse than chance."),
    ],
)
def test_chance_is_left_only_where_the_interval_leaves_it(right: int, said: str) -> None:
    found = judged(right, 100 - right)
    assert said_of(found).endswith(f"Before: 50.0 %, which is chance. {said}")
    assert found.low < right / 100 < found.high
    assert found.is_better == (found.low > 0.5) and found.is_worse == (found.high < 0.5)


def test_the_sentences_name_after_before_and_what_that_shows() -> None:
    assert said_of(judged(5, 1)) == (
        "After training the better answer is preferred in 83.3 % of 6 held-out pairs (95 % interval 43.6 to 97.0 %). "
        "Before: 50.0 %, which is chance. These pairs show no difference."
    )


def test_without_a_reference_the_same_pairs_before_training_are_what_one_compares_with() -> None:
    before = np.repeat([1.0, -1.0, 1.0], [40, 20, 40])
    found = judged(60, 40, before)
    assert found.before == 0.8 and found.is_worse and not found.is_chance
    assert "in 60.0 % of 100 held-out pairs" in said_of(found)
    assert said_of(found).endswith("Before: 80.0 %. That is worse than before.")
    same = judged(60, 40, np.repeat([1.0, -1.0], [60, 40]))
    assert said_of(same).endswith("Before: 60.0 %. These pairs show no difference.")


def test_pairs_of_one_prompt_have_no_interval_and_show_nothing() -> None:
    found = judged(6, 0, prompts=1)
    assert not found.is_better and np.isnan(found.low)
    assert "in 100.0 % of 6 held-out pairs of 1 prompt. Before" in said_of(found)
    assert said_of(found).endswith("Pairs of one prompt have no interval, so no difference is shown.")


def test_pairs_of_one_prompt_count_as_one_in_the_interval() -> None:
    found = judged(60, 0, prompts=3)
    assert (found.low, found.high) == preference_accuracy(3, 3)[1:]
    assert "of 60 held-out pairs of 3 prompts" in said_of(found) and "no difference" in said_of(found)
    assert judged(60, 0).is_better


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (90, "It is better than plain DPO, by "),
        (52, "Beside plain DPO it is +2.0 points"),
        (10, "It is worse than plain DPO, by "),
    ],
)
def test_plain_dpo_is_beaten_only_where_the_paired_interval_says_so(own: int, said: str) -> None:
    margins = {"dpo": np.repeat([1.0, -1.0], [50, 50]), "run": np.repeat([1.0, -1.0], [own, 100 - own])}
    found = sentences(judged(own, 100 - own), compared(margins))
    assert said in found and ("no difference is shown" in found) == (own == 52)
    assert "show" in sentences(judged(own, 100 - own), compared(margins, np.zeros(100))) and found.endswith(".")


def test_a_run_that_is_plain_dpo_is_said_to_be() -> None:
    rows = compared({"dpo": np.ones(9), "run": np.ones(9)})
    rows["dpo"]["same_as"] = "run"
    assert sentences(judged(9, 0), rows).endswith(" Plain DPO is the same training.")


def test_an_arm_that_has_the_weights_of_the_data_is_not_called_plain() -> None:
    rows = compared({"dpo": np.ones(9), "run": np.ones(9)})
    rows["dpo"]["effects"] = {"ess": 0.7}
    assert "Beside DPO with the weights of your data it is " in sentences(judged(9, 0), rows)
