"""Candidates with several rewards: win rates, Pareto fronts, the pairs made of them, and what is refused."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.compared import Pairing, compared
from iwpo_fast.data.fronts import fronts
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.win_rates import mean_win_rates

FOUR = ["the sky", "blue", "green", "the grass is green"]
TWO_REWARDS = [[3.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, -1.0]]
ROW: dict[str, Any] = {"prompt": "what is it\n", "candidates": FOUR, "candidate_scores": TWO_REWARDS}
SIDES = {"chosen": "blue", "rejected": "green"}

REWARDS = st.integers(1, 3).flatmap(
    lambda models: st.lists(
        st.tuples(*[st.floats(-50, 50) | st.integers(-2, 2).map(float)] * models), min_size=2, max_size=7
    )
)


def naive_rates(rewards: list[tuple[float, ...]], temperature: float) -> np.ndarray:
    """The formula, in float64."""
    table = np.array(rewards, dtype=np.float64)  # [N, L]
    gaps = (table[:, None] - table[None]) / temperature
    won = np.where(gaps >= 0, 1 / (1 + np.exp(-np.abs(gaps))), 1 - 1 / (1 + np.exp(-np.abs(gaps))))
    return np.array([np.delete(won[i], i, 0).mean(0).mean() for i in range(len(rewards))])


def naive_fronts(rewards: list[tuple[float, ...]]) -> list[set[int]]:
    """A candidate's front is the length of the longest chain of others that dominate one another above it."""

    def dominates(j: int, i: int) -> bool:
        return bool(np.all(table[j] >= table[i]) and np.any(table[j] > table[i]))

    def depth(i: int) -> int:
        return max((1 + depth(j) for j in range(len(table)) if dominates(j, i)), default=0)

    table = np.array(rewards)
    depths = [depth(i) for i in range(len(table))]
    return [{i for i, d in enumerate(depths) if d == front} for front in range(max(depths) + 1)]


def read(config: DataConfig) -> Rows:
    return read_rows(config)[0]


def pairs_of(rows: Rows) -> list[tuple[Any, Any]]:
    return list(zip(rows.chosen, rows.rejected, strict=True))


@pytest.mark.slow
@given(REWARDS, st.sampled_from([0.1, 1.0, 7.0]))
def test_win_rates_are_those_of_the_formula_in_the_unit_interval_and_half_as_many_as_candidates_in_sum(
    rewards, temperature
) -> None:
    rates = mean_win_rates(rewards, temperature)
    np.testing.assert_allclose(rates, naive_rates(rewards, temperature), rtol=1e-12, atol=1e-14)
    assert all(0 <= rate <= 1 for rate in rates)
    assert math.fsum(rates) == pytest.approx(len(rewards) / 2, rel=1e-13)


@given(st.floats(-30, 30), st.sampled_from([0.5, 1.0, 2.0]))
def test_of_two_candidates_the_gap_is_twice_the_probability_minus_one(gap, temperature) -> None:
    first, second = mean_win_rates([(gap,), (0.0,)], temperature)
    assert first - second == pytest.approx(2 / (1 + math.exp(-gap / temperature)) - 1, abs=1e-15)


def test_near_zero_the_gap_of_two_is_half_of_that_in_log_odds() -> None:
    first, second = mean_win_rates([(1e-4,), (0.0,)], 1.0)
    assert first - second == pytest.approx(1e-4 / 2, rel=1e-8)


@pytest.mark.slow
@given(REWARDS, st.randoms(use_true_random=False))
def test_equal_candidates_have_equal_rates_in_whatever_order(rewards, order: random.Random) -> None:
    twice = [*rewards, *rewards]
    places = list(range(len(twice)))
    order.shuffle(places)
    rates = dict(zip(places, mean_win_rates([twice[k] for k in places], 1.0), strict=True))
    assert all(rates[k] == rates[k + len(rewards)] for k in range(len(rewards)))


def test_rewards_as_far_apart_as_numbers_can_be_have_rates() -> None:
    assert mean_win_rates([(3e38,), (-3e38,), (0.0,)], 1e-300) == [1.0, 0.0, 0.5]


@pytest.mark.slow
@given(REWARDS)
def test_fronts_are_those_of_chains_of_domination_and_hold_every_candidate_once(rewards) -> None:
    found = fronts(rewards)
    assert [set(front) for front in found] == naive_fronts(rewards)
    assert sorted(k for front in found for k in front) == list(range(len(rewards)))


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=7))
def test_fronts_of_rewards_are_fronts_of_their_win_rates(rewards) -> None:
    calibrated = list(zip(*(mean_win_rates([(r[model],) for r in rewards], 1.0) for model in range(2)), strict=True))
    assert fronts(calibrated) == fronts(rewards)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_the_fronts_of_one_reward_are_its_ranks(rewards) -> None:
    ranks = [[k for k, r in enumerate(rewards) if r == value] for value in sorted(set(rewards), reverse=True)]
    assert fronts([(r,) for r in rewards]) == ranks


def test_a_pair_is_of_the_upper_and_of_the_lowest_front_with_mean_win_rates_as_scores(write) -> None:
    rows = read(write([ROW], pairs_from_candidates="pareto"))
    [(chosen, rejected)] = pairs_of(rows)
    assert chosen in FOUR[:3] and rejected == FOUR[3]
    rate = dict(zip(FOUR, naive_rates([tuple(r) for r in TWO_REWARDS], 1.0), strict=True))
    assert rows.columns["score_chosen"] == pytest.approx([rate[chosen]])
    assert rows.columns["score_rejected"] == pytest.approx([rate[rejected]])
    assert rows.candidates is not None
    others = [text for text in FOUR if text not in (chosen, rejected)]
    assert rows.candidates.texts == others
    assert rows.candidates.scores == pytest.approx([rate[text] for text in others])


@pytest.mark.slow
def test_both_of_a_pair_are_drawn_evenly_from_their_fronts_and_alone() -> None:
    scores = [(2.0, 0.0), (0.0, 2.0), (1.0, 1.0), (0.0, -1.0), (-1.0, 0.0)]
    drawn = Counter(
        compared(scores, [f"{prompt} {k}" for k in range(5)], Pairing("pareto")).couples[0] for prompt in range(6000)
    )
    assert drawn.keys() == set(product(range(3), (3, 4)))
    assert all(abs(count - 1000) < 150 for count in drawn.values())  # five standard deviations


def test_what_is_drawn_depends_on_texts_and_neither_on_order_nor_on_other_rows(write) -> None:
    backwards = ROW | {"candidates": FOUR[::-1], "candidate_scores": TWO_REWARDS[::-1]}
    first = [ROW | {"prompt": f"{k}\n"} for k in range(8)]
    after = [backwards | {"prompt": f"{k}\n"} for k in reversed(range(4, 8))]
    once, again = (pairs_of(read(write(rows, pairs_from_candidates="pareto"))) for rows in (first, after))
    assert once[4:] == again[::-1] and len(set(once)) > 1


def test_rows_of_a_single_front_make_no_pair_and_are_counted(write) -> None:
    flat = ROW | {"candidate_scores": [[0, 3], [1, 2], [2, 1], [3, 0]]}
    rows = read(write([ROW, flat], pairs_from_candidates="pareto"))
    assert (len(rows), rows.unpaired) == (1, 1)
    with pytest.raises(ValueError, match=r"No row of pairs\.jsonl has candidates of two Pareto fronts: .* best_worst"):
        read(write([flat], pairs_from_candidates="pareto"))


@pytest.mark.parametrize("how", ["best_worst", "all"])
def test_without_fronts_several_rewards_are_compared_by_their_mean_win_rates(how, write) -> None:
    rows = read(write([ROW], pairs_from_candidates=how))
    rate = dict(zip(FOUR, naive_rates([tuple(r) for r in TWO_REWARDS], 1.0), strict=True))
    pairs = pairs_of(rows)
    assert all(rate[chosen] > rate[rejected] for chosen, rejected in pairs)
    assert (pairs[0][0] in FOUR[:2], pairs[-1][1]) == (True, FOUR[3])
    assert len(pairs) == (1 if how == "best_worst" else 5)  # the first two have one mean


def test_a_temperature_calibrates_a_single_score_too_and_null_leaves_it(write) -> None:
    row = ROW | {"candidate_scores": [0.5, 2.0, -1.0, 1.0]}
    plain, calibrated = (read(write([row], win_rate_temperature=t)) for t in (None, 2.0))
    assert pairs_of(plain) == pairs_of(calibrated) == [("blue", "green")]
    assert plain.columns["score_chosen"].tolist() == [2.0]
    rates = naive_rates([(0.5,), (2.0,), (-1.0,), (1.0,)], 2.0)
    assert calibrated.columns["score_chosen"] == pytest.approx([rates[1]])
    assert calibrated.columns["score_rejected"] == pytest.approx([rates[2]])


def test_equal_responses_are_one_with_the_mean_of_each_reward_and_unknown_ones_are_compared_with_none(write) -> None:
    row = ROW | {"candidates": ["a", "b", "a", "c"], "candidate_scores": [[0, 4], [1, 1], [4, 0], None]}
    rows = read(write([row], pairs_from_candidates="pareto"))
    assert pairs_of(rows) == [("a", "b")]  # the mean (2, 2) dominates
    assert rows.columns["score_chosen"] == pytest.approx([1 / (1 + math.exp(-1))])
    assert rows.candidates is not None and rows.candidates.texts == ["c"] and np.isnan(rows.candidates.scores).all()


def test_one_candidate_of_known_rewards_wins_against_none(write) -> None:
    alone = ROW | {"candidate_scores": [[1, 2], None, None, None]}
    for how in ("pareto", "best_worst"):
        rows = read(write([ROW, alone], pairs_from_candidates=how))
        assert (len(rows), rows.unpaired) == (1, 1)


def test_columns_of_scores_are_put_side_by_side(write) -> None:
    rewards = {"helpful": [r[0] for r in TWO_REWARDS], "safe": [r[1] for r in TWO_REWARDS]}
    apart = {"prompt": ROW["prompt"], "candidates": FOUR} | rewards
    found = read(write([apart], pairs_from_candidates="pareto", columns={"candidate_scores": "helpful+safe"}))
    expected = read(write([ROW], pairs_from_candidates="pareto"))
    assert pairs_of(found) == pairs_of(expected)
    assert found.columns["score_chosen"].tolist() == expected.columns["score_chosen"].tolist()


def test_the_aspects_of_ultrafeedback_are_its_rewards(write) -> None:
    ratings = [(5, 1), (1, 5), (1, 1), (4, "N/A")]
    completions = [
        {"response": text, "fine-grained_score": k, "annotations": {"a": {"Rating": str(a)}, "b": {"Rating": str(b)}}}
        for k, (text, (a, b)) in enumerate(zip(FOUR, ratings, strict=True))
    ]
    row = {"instruction": ROW["prompt"], "completions": completions}
    rows = read(write([row], pairs_from_candidates="pareto"))
    [(chosen, rejected)] = pairs_of(rows)
    assert chosen in FOUR[:2] and rejected == FOUR[2]
    rates = naive_rates([(5, 1), (1, 5), (1, 1)], 1.0)
    assert rows.columns["score_rejected"] == pytest.approx([rates[2]])
    assert pairs_of(read(write([row]))) == [(FOUR[3], FOUR[0])]  # by one score each, as ever


def test_lists_of_scores_are_read_from_parquet(write, tmp_path) -> None:
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "pairs.parquet")
    config = write([ROW], pairs_from_candidates="pareto")
    from_parquet = read(replace(config, path=str(tmp_path / "pairs.parquet")))
    assert pairs_of(from_parquet) == pairs_of(read(config))


NUMBERS = [0.5, 2.0, -1.0, 1.0]


def scored(*scores: Any) -> list[dict[str, Any]]:
    """Rows of four candidates with these lists of scores."""
    return [ROW | {"candidate_scores": each} for each in scores]


PARETO = [
    (scored(NUMBERS), "row 1 has one score for each candidate, and data.pairs_from_candidates is pareto, which"),
    (scored([[s] for s in NUMBERS]), "give a list of scores for each, or set best_worst, which a single reward's"),
    (scored([[1, 2], [1], [2, 3], [0, 0]]), "row 1 has a list of 1 and a list of 2 for its candidates"),
    (scored([[1, 2], 1, [2, 3], [0, 0]]), "row 1 has a number and a list of 2 for its candidates"),
    (scored(TWO_REWARDS[:3]), "row 1 has 4 candidates and 3 scores of them: give one score per candidate."),
    (scored([[], [], [], []]), "row 1 has an empty list as the scores of a candidate: give its rewards, or null."),
    (scored([[1, None], *TWO_REWARDS[1:]]), "row 1 has the candidate score None: make it a number."),
    (scored([[1, math.nan], *TWO_REWARDS[1:]]), "row 1 has the candidate score nan: make it a finite number"),
    (scored(TWO_REWARDS, [[1, 2, 3]] * 4), "row 2 has a list of 3 for each candidate where rows before have a list of"),
    ([ROW | {"candidates": ["a"], "candidate_scores": [[1, 2]]}], "row 1 has 1 candidates and neither chosen nor"),
    ([ROW, ROW | SIDES], "row 2 has chosen and rejected, beside which scores of candidates are not calibrated: leave"),
    ([{"prompt": "p"} | SIDES], "data.pairs_from_candidates is pareto, but every row of pairs.jsonl has its chosen"),
]
BEST_WORST = [
    (
        scored(NUMBERS, TWO_REWARDS),
        "row 2 has a list of 2 for each candidate where rows before have a number",
    ),
    ([ROW | SIDES], "row 1 has chosen and rejected, beside which scores of candidates are not calibrated: leave"),
]
REFUSED = [*((*case, "pareto") for case in PARETO), *((*case, "best_worst") for case in BEST_WORST)]


@pytest.mark.parametrize(("rows", "sentence", "how"), REFUSED, ids=range(len(REFUSED)))
def test_bad_input_is_one_sentence(rows, sentence, how, write) -> None:
    with pytest.raises(ValueError) as said:
        read(write("".join(json.dumps(row) + "\n" for row in rows), pairs_from_candidates=how))
    assert sentence in str(said.value) and "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"a": [1, 2, 3], "b": [1, 2, 3, 4]},
            "row 1 has 3 scores in a and 4 scores in b: give one score per",
        ),
        ({"a": [1, 2, 3, 4], "b": None}, "row 1 has b of type NoneType: make it a list, one score per candidate"),
    ],
)
def test_columns_of_scores_that_do_not_fit_are_refused(columns, sentence, write) -> None:
    row = {"prompt": ROW["prompt"], "candidates": FOUR} | columns
    with pytest.raises(ValueError, match=sentence):
        read(write([row], columns={"candidate_scores": "a+b"}))


def test_a_temperature_that_nothing_reads_is_refused_and_so_is_one_of_zero(write) -> None:
    with pytest.raises(ValueError, match=r"is 2\.0, but every row .* set data\.win_rate_temperature to null, or"):
        read(write([{"prompt": "p"} | SIDES], win_rate_temperature=2.0))
    with pytest.raises(ValueError, match=r"data\.win_rate_temperature is 0\.0"):
        read(write([ROW], win_rate_temperature=0.0))
