"""Numbers stand with their nouns as people say them."""

from __future__ import annotations

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.objectives.words import objective_words
from iwpo_fast.report.numbers import signed
from iwpo_fast.words import several


def test_one_is_singular_and_all_else_plural() -> None:
    assert [several(number, "pair") for number in (0, 1, 2, 1234)] == ["0 pairs", "1 pair", "2 pairs", "1,234 pairs"]
    assert [several(number, "micro-batch", "es") for number in (1, 2)] == ["1 micro-batch", "2 micro-batches"]


def test_what_rounds_to_nothing_has_no_minus() -> None:
    assert [signed(value) for value in (-0.0001, -0.001)] == ["+0.000", "−0.001"]


def test_an_objective_is_named_with_the_beta_in_effect() -> None:
    assert objective_words(ObjectiveConfig(name="sigmoid")) == "sigmoid (β = 0.1)"
    assert objective_words(ObjectiveConfig(name="ipo", beta=0.2)) == "ipo (β = 0.2)"
    assert objective_words(ObjectiveConfig(name={"sigmoid": 1.0, "sft": 0.5})) == "sigmoid (β = 0.1) + 0.5 sft"
