"""Scores that are votes: lists and histograms of pairs and of candidates, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iwpo_fast.config import DataConfig, MixedConfig, ObjectiveConfig, RewardConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.votes import MOST_VOTES, all_votes, are_absent, mean_vote, of_histogram, of_one_width
from iwpo_fast.objectives import OBJECTIVES, Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.pipeline.external_scores import grades_of_responses, scores_of_responses_in
from iwpo_fast.sampling.store import with_samples

PAIR: dict[str, Any] = {"prompt": "why\n", "chosen": "so", "rejected": "no"}
THREE = ["bad", "good", "fair"]
CANDIDATES: dict[str, Any] = {"prompt": "why\n", "candidates": THREE}
LISTS = [[2, 1, 1], [5, 4, 4], [3, 4, 3]]
GRADES = st.dictionaries(st.sampled_from(["1", "2", "3.5", "-4", "50"]), st.integers(0, 5), min_size=1)


def read(config: DataConfig) -> Rows:
    return read_rows(config, votes=True)[0]


def scored(chosen: Any, rejected: Any) -> dict[str, Any]:
    return PAIR | {"score_chosen": chosen, "score_rejected": rejected}


def judged(scores: Any) -> dict[str, Any]:
    return CANDIDATES | {"candidate_scores": scores}


def as_lists(scores: np.ndarray) -> list[list[float]]:
    """Votes without the gaps."""
    return [[vote for vote in votes if not math.isnan(vote)] for votes in scores.tolist()]


def test_lists_of_votes_on_candidates_are_kept_and_compared_by_their_mean(write) -> None:
    rows = read(write([judged(LISTS)]))
    assert (rows.chosen[0], rows.rejected[0]) == ("good", "bad")
    assert rows.columns["score_chosen"].tolist() == [LISTS[1]]
    assert rows.columns["score_rejected"].tolist() == [LISTS[0]]
    assert rows.candidates is not None and list(rows.candidates.texts) == ["fair"]
    assert rows.candidates.scores.tolist() == [LISTS[2]]


def test_elsewhere_lists_of_scores_of_candidates_are_rewards(write) -> None:
    rows = read_rows(write([judged(LISTS)]))[0]
    assert rows.columns["score_chosen"].ndim == 1 and 0 < rows.columns["score_chosen"][0] < 1


def test_candidates_of_one_mean_make_no_pair(write) -> None:
    rows = read(write([judged(LISTS), judged([[1, 5], [5, 1], [3]])]))
    assert (len(rows), rows.unpaired) == (1, 1)


def test_single_scores_are_read_as_they_are_where_nothing_has_votes(write) -> None:
    for row in (judged([1, 3, None]), scored(3, 1), scored([3.0], [1.0]), scored([3, None], [1, 2])):
        config = write([row])
        votes, rewards = (read_rows(config, votes=votes)[0] for votes in (True, False))
        for side in ("score_chosen", "score_rejected"):
            np.testing.assert_array_equal(votes.columns[side], rewards.columns[side], strict=True)


@given(GRADES.filter(lambda counts: sum(counts.values()) > 0))
def test_a_histogram_is_the_list_that_it_counts_from_low_to_high(counts) -> None:
    votes = of_histogram("candidate score", counts)
    assert votes == sorted(votes)
    assert {grade: votes.count(float(grade)) for grade in counts} == counts


def test_histograms_read_as_lists_do_with_the_same_fingerprint(write, tokenizer) -> None:
    counted = [
        scored({"4": 2, "1": 1}, {"2": 3}),
        scored({"5": 4}, {"1.0": 1, "1": 1, "3": 0}),
        judged([{"1": 3}, {"3": 1, "5": 1}, None]),
    ]
    listed = [scored([1, 4, 4], [2, 2, 2]), scored([5, 5, 5, 5], [1, 1]), judged([[1, 1, 1], [3, 5], None])]
    for rows in (counted, listed):
        for row in rows[:2]:
            row |= {"candidates": ["other"], "candidate_scores": [[3]]}
    (first, _), (second, _) = (tokenise(read(config := write(rows)), tokenizer, config) for rows in (counted, listed))
    assert first.fingerprint() == second.fingerprint()
    assert first.columns["score_chosen"].shape == (3, 4), "as wide as the most votes on one response"
    assert first.candidates is not None and second.candidates is not None
    np.testing.assert_array_equal(first.candidates.columns["score"], second.candidates.columns["score"])


def test_rows_may_have_any_number_of_votes_and_a_number_is_one(write) -> None:
    rows = read(write([scored([4, 5, 3], 2), scored(4, [1, None, 2]), scored(None, {"3": 2}), scored([None], [1])]))
    assert as_lists(rows.columns["score_chosen"]) == [[4, 5, 3], [4], [], []]
    assert as_lists(rows.columns["score_rejected"]) == [[2], [1, 2], [3, 3], [1]]


def test_votes_on_an_answer_that_stands_twice_are_all_counted(write) -> None:
    rows = read(write([CANDIDATES | {"candidates": ["a", "b", "a"], "candidate_scores": [[5, 4], {"1": 2}, 3]}]))
    assert as_lists(rows.columns["score_chosen"]) == [[5, 4, 3]]
    assert all_votes([math.nan, 2.0]) == 2.0


@given(st.permutations([0.1, 0.2, 0.3, 4.0, math.nan]))
def test_a_mean_is_the_same_in_whatever_order(votes) -> None:
    assert mean_vote(tuple(votes)) == mean_vote((0.1, 0.2, 0.3, 4.0))


def test_a_pair_takes_the_votes_on_its_answers_from_candidates_where_it_has_none(write) -> None:
    beside = {"candidates": ["so", "no", "hm"], "candidate_scores": [[4, 5], {"1": 3}, [2]]}
    rows = read(write([PAIR | beside, scored([2], 1) | beside]))
    assert as_lists(rows.columns["score_chosen"]) == [[4, 5], [2]]
    assert as_lists(rows.columns["score_rejected"]) == [[1, 1, 1], [1]]
    assert rows.candidates is not None and as_lists(rows.candidates.scores.reshape(2, -1)) == [[2], [2]]


def test_of_no_scores_none_is_absent_and_none_is_wider() -> None:
    for shape in ((0,), (0, 3)):
        assert are_absent(np.empty(shape)).shape == (0,)
    assert [table.shape for table in of_one_width([np.empty(0), np.empty((2, 3))])] == [(0, 3), (2, 3)]


def test_data_sets_of_a_mix_may_have_different_numbers_of_votes(write, tmp_path) -> None:
    config = write([scored([4, 5, 3], [1])])
    (tmp_path / "other.jsonl").write_text(json.dumps(scored({"2": 4}, 1)) + "\n" + json.dumps(judged(LISTS)) + "\n")
    rows = read(replace(config, mix=[MixedConfig(str(tmp_path / "other.jsonl"))]))
    assert as_lists(rows.columns["score_chosen"]) == [[4, 5, 3], [2, 2, 2, 2], LISTS[1]]


def test_pairs_of_the_same_votes_are_counted_and_those_without_any_are_not(write, tokenizer) -> None:
    rows = [scored({"4": 2}, [4, 4]), scored([4, 4, 4], [4, 4]), scored([4, None], [4, None]), scored(None, [None])]
    config = write(rows)
    assert tokenise(read(config), tokenizer, config)[1].equal_scores == 2


def test_votes_go_with_the_better_of_two_answers(write) -> None:
    row = {"prompt": "why\n", "first": "no", "second": "so", "preferred": 2, "score_first": {"1": 2}, "score_second": 4}
    rows = read(write([row], preferred={"first": 1, "second": 2}))
    assert as_lists(rows.columns["score_chosen"]) == [[4]] and as_lists(rows.columns["score_rejected"]) == [[1, 1]]


def test_tables_hold_histograms_with_null_where_another_row_has_a_grade(write, tmp_path) -> None:
    rows = [scored({"1": 2, "4": 1}, {"1": 1}), scored({"5": 2}, {"2": 1, "1": 1})]
    expected = read(config := write(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    cells = [*PAIR.values(), '"{""1"": 2, ""4"": 1}"', '"{""1"": 1}"']
    other = [*PAIR.values(), '"{""5"": 2}"', '"[1, 2]"']
    lines = [",".join([*PAIR, "score_chosen", "score_rejected"]), *(",".join(row) for row in (cells, other))]
    (tmp_path / "pairs.csv").write_text("\n".join(lines).replace("why\n", "why") + "\n")
    for name in ("pairs.parquet", "pairs.csv"):
        found = read(replace(config, path=str(tmp_path / name)))
        for side in ("score_chosen", "score_rejected"):
            np.testing.assert_array_equal(found.columns[side], expected.columns[side])


def test_what_is_drawn_beside_candidates_with_votes_has_none(write) -> None:
    drawn = {"row": 0, "completion": "new", "draws": 1, "ended": True, "log_mu": -1.0, "log_model": None}
    candidates = with_samples(read(write([judged(LISTS)])), [drawn]).candidates
    assert candidates is not None and list(candidates.texts) == ["fair", "new"]
    assert as_lists(candidates.scores) == [LISTS[2], []]


@pytest.mark.parametrize(("kind", "sentence"), [("jsonl", "the key '1' twice"), ("csv", "make it a number")])
def test_a_grade_that_is_counted_twice_is_refused(kind, sentence, write, tmp_path) -> None:
    line = json.dumps(scored("VOTES", 1)).replace('"VOTES"', '{"1": 2, "1": 3}')
    config = write(line + "\n")
    table = ["prompt,chosen,rejected,score_chosen,score_rejected", 'why,so,no,"{""1"": 2, ""1"": 3}",1']
    (tmp_path / "pairs.csv").write_text("\n".join(table) + "\n")
    with pytest.raises(ValueError, match=sentence):
        read(replace(config, path=str(tmp_path / f"pairs.{kind}")))


def test_every_vote_is_a_grade_of_its_response(write, tokenizer) -> None:
    config = write([judged(LISTS), scored({"2": 2}, None) | {"prompt": "how\n"}])
    pairs, _ = tokenise(rows := read(config), tokenizer, config)
    assert sorted(as_lists(grades_of_responses(rows, pairs))) == sorted([*LISTS, [2, 2], []])


REFUSED = [
    ({"1": -2, "3": 4}, "has -2 votes for 1 in {name}: make it a whole number, 0 or more, of those who gave this"),
    ({"1": 1.5}, "has 1.5 votes for 1 in {name}: make it a whole number, 0 or more, of those who gave this grade."),
    ({"1": "three"}, "has the number of votes for 1 in {name} 'three': make it a number."),
    ({"1": True}, "has the number of votes for 1 in {name} True: make it a number."),
    ({}, "has the {name} {{}}, which counts no votes: give some, or null."),
    ({"1": 0, "2": None}, "has the {name} {{'1': 0, '2': None}}, which counts no votes: give some, or null."),
    ({"good": 2}, "has the grade in {name} 'good': make it a number."),
    ({"NaN": 2}, "has the grade in {name} nan: make it a finite number of float32."),
    ({"1e39": 2}, "has the grade in {name} 1e+39: make it a finite number of float32."),
    ({"true": 2}, "has the grade in {name} True: make it a number."),
    ({"1": MOST_VOTES, "2": 1}, "which counts 10001 votes: divide the counts, so that they are 10000 at most."),
    ([], "has an empty list as its {name}: give the votes, or null."),
    ([1, "x"], "has the {name} 'x': make it a number."),
    ([1, [2]], "has the {name} [2]: make it a number."),
]


@pytest.mark.parametrize(("votes", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_bad_votes_are_one_sentence(votes, sentence, write) -> None:
    for row, name in ((scored(votes, 1), "score_chosen"), (judged([[1], votes, None]), "candidate score")):
        with pytest.raises(ValueError) as said:
            read(write([PAIR, row]))
        assert str(said.value).startswith("In pairs.jsonl, row 2 has ")
        assert sentence.format(name=name) in str(said.value) and "\n" not in str(said.value)


def test_a_histogram_is_refused_where_nothing_learns_from_votes(write) -> None:
    for row, name in ((scored({"4": 2}, 1), "score_chosen"), (judged([1, {"4": 2}, 3]), "candidate score")):
        sentence = f"row 1 has the {name} .*, which counts votes: learn from them by iwpo run with rewards.heads dprm,"
        with pytest.raises(ValueError, match=sentence):
            read_rows(write([row]))


READERS = sorted(name for name, objective in OBJECTIVES.items() if Reads.SCORES in objective.reads)


@pytest.mark.parametrize("name", READERS)
def test_what_needs_all_scores_refuses_a_list_with_null_in_it(name, write, tokenizer) -> None:
    config = write([scored([3, 4], [1, 2]), scored([3, None], [1, 2])])
    pairs, _ = tokenise(rows := read_rows(config)[0], tokenizer, config)
    sentence = f"The objective {name} needs all scores, and 1 pairs of .* lack one, first in row 2: add them."
    with pytest.raises(ValueError, match=sentence):
        Mixture.of(ObjectiveConfig(name=name)).check_columns(pairs.columns, 0.0, rows.source, rows.numbers[pairs.row])


def test_rewards_by_columns_refuse_a_list_with_null_in_it(write, tokenizer) -> None:
    config = write([scored([3, 4], [1, 2]), scored([3, 4], [1, None]) | {"prompt": "how\n"}])
    pairs, _ = tokenise(rows := read_rows(config)[0], tokenizer, config)
    with pytest.raises(ValueError, match=r"row 2 lacks a score although rewards\.source is columns: give every pair"):
        scores_of_responses_in(rows, pairs, RewardConfig(source="columns"))
