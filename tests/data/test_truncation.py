from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.truncate import cut

BOS = 0


def pairs_of(*triples: tuple[list[int], list[int], list[int]]) -> Pairs:
    prompt, chosen, rejected = (Ragged.from_rows(part) for part in zip(*triples, strict=True))
    return Pairs(prompt, chosen, rejected, np.ones(len(triples)), row=np.arange(len(triples)))


def lists(pairs: Pairs) -> list[tuple[list[int], ...]]:
    parts = (pairs.prompt, pairs.chosen, pairs.rejected)
    return [tuple(part[row].tolist() for part in parts) for row in range(len(pairs))]


PROMPT, CHOSEN, REJECTED = [1, 2, 3, 4], [11, 12, 13], [21, 22]
SHORT = ([1], [11], [21])


def test_what_fits_exactly_is_untouched_by_every_policy() -> None:
    for policy in ("drop", "truncate_prompt_left", "truncate_completion", "error"):
        left, counts = cut(pairs_of((PROMPT, CHOSEN, REJECTED)), max_length=7, policy=policy, bos=None)
        assert lists(left) == [(PROMPT, CHOSEN, REJECTED)]
        assert (counts["dropped_too_long"], counts["prompts_cut"], counts["completions_cut"]) == (0, 0, 0)


def test_drop_leaves_out_pairs_of_which_one_sequence_is_too_long() -> None:
    left, counts = cut(pairs_of((PROMPT, CHOSEN, REJECTED), SHORT), max_length=6, policy="drop", bos=None)
    assert lists(left) == [SHORT]
    assert left.row.tolist() == [1]
    assert counts["dropped_too_long"] == 1


def test_the_prompt_loses_its_beginning() -> None:
    left, counts = cut(pairs_of((PROMPT, CHOSEN, REJECTED)), max_length=5, policy="truncate_prompt_left", bos=None)
    assert lists(left) == [([3, 4], CHOSEN, REJECTED)]
    assert (counts["prompts_cut"], counts["completions_cut"]) == (1, 0)


def test_the_prompt_keeps_its_beginning_of_sequence_token() -> None:
    pairs = pairs_of(([BOS, 2, 3, 4], CHOSEN, REJECTED), (PROMPT, CHOSEN, REJECTED))
    left, _ = cut(pairs, max_length=5, policy="truncate_prompt_left", bos=BOS)
    assert [prompt for prompt, _, _ in lists(left)] == [[BOS, 4], [3, 4]]
    assert pairs.prompt[0].tolist() == [BOS, 2, 3, 4]


def test_one_prompt_token_stays_and_the_completion_is_cut_for_it() -> None:
    left, counts = cut(pairs_of((PROMPT, CHOSEN, REJECTED)), max_length=3, policy="truncate_prompt_left", bos=None)
    assert lists(left) == [([4], [11, 12], [21, 22])]
    assert (counts["prompts_cut"], counts["completions_cut"]) == (1, 1)


@pytest.mark.parametrize(
    ("before", "after", "away"),
    [(20, 1, 1), (20, 9, 0), (20, 7, 1), (8, 7, 0), (12, 6, 0), (200, 20, 0), (200, 19, 1), (5, 5, 0)],
)
def test_prompts_of_which_almost_nothing_is_left_are_counted_apart(before, after, away) -> None:
    pair = (list(range(before)), [1, 2], [3, 4])
    left, counts = cut(pairs_of(pair), max_length=after + 2, policy="truncate_prompt_left", bos=None)
    assert (left.prompt.lengths.tolist(), counts["prompts_cut_away"]) == ([after], away)


def test_completions_lose_their_ends() -> None:
    left, counts = cut(pairs_of((PROMPT, CHOSEN, REJECTED)), max_length=5, policy="truncate_completion", bos=None)
    assert lists(left) == [(PROMPT, [11], [21])]
    assert (counts["prompts_cut"], counts["completions_cut"]) == (0, 2)


def test_completions_that_become_empty_are_dropped_and_counted() -> None:
    left, counts = cut(
        pairs_of((PROMPT, CHOSEN, REJECTED), SHORT), max_length=4, policy="truncate_completion", bos=None
    )
    assert lists(left) == [SHORT]
    assert (counts["dropped_empty"], counts["completions_cut"]) == (1, 0)


def test_completions_that_become_identical_are_dropped_and_counted() -> None:
    pairs = pairs_of((PROMPT, [7, 8, 9], [7, 8, 5]), SHORT)
    left, counts = cut(pairs, max_length=6, policy="truncate_completion", bos=None)
    assert lists(left) == [SHORT]
    assert (counts["dropped_identical"], counts["completions_cut"]) == (1, 0)


ids = st.lists(st.integers(0, 3), min_size=1, max_size=8)
policies = st.sampled_from(["drop", "truncate_prompt_left", "truncate_completion"])


@pytest.mark.slow
@given(st.lists(st.tuples(ids, ids, ids), min_size=1, max_size=6), policies, st.integers(2, 12))
def test_whatever_the_policy_pairs_fit_and_are_parts_of_their_source_and_all_are_accounted_for(
    rows, policy, longest
) -> None:
    left, counts = cut(pairs_of(*rows), max_length=longest, policy=policy, bos=None)
    prompts_cut = completions_cut = 0
    for row, (prompt, chosen, rejected) in zip(left.row, lists(left), strict=True):
        source = rows[row]
        assert len(prompt) + max(len(chosen), len(rejected)) <= longest
        assert prompt and chosen and rejected
        assert source[0][-len(prompt) :] == prompt
        assert (source[1][: len(chosen)], source[2][: len(rejected)]) == (chosen, rejected)
        assert chosen != rejected
        prompts_cut += prompt != source[0]
        completions_cut += (chosen != source[1]) + (rejected != source[2])
    lost = counts["dropped_too_long"] + counts["dropped_empty"] + counts["dropped_identical"]
    assert len(left.row) + lost == len(rows)
    assert (counts["prompts_cut"], counts["completions_cut"]) == (prompts_cut, completions_cut)


def test_the_policy_error_names_the_first_row_and_their_number(write, tokenizer) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, *[{"prompt": "?" * 9, "chosen": "b", "rejected": "c"}] * 3]
    config = write(rows, max_length=6, truncation="error")
    with pytest.raises(ValueError, match=r"row 2 \(the first of 3\) has 11 tokens: raise data\.max_length"):
        tokenise(read_rows(config)[0], tokenizer, config)


def test_the_ledger_adds_up_and_says_so_in_words_and_in_a_file(write, tokenizer, tmp_path) -> None:
    long = {"prompt": "?" * 9, "chosen": "b", "rejected": "c"}
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        long,
        long | {"chosen": "!" * 6},
    ]
    scored = [row | {"score_chosen": 1.0, "score_rejected": 1.0} for row in rows]
    config = write(scored, max_length=6)
    _, ledger = tokenise(read_rows(config)[0], tokenizer, config)
    assert ledger.rows_read == ledger.kept + sum(ledger.dropped.values()) == 4
    assert ledger.truncated_fraction == 0.5
    assert ledger.lines() == [
        "pairs.jsonl: 4 pairs read, 3 kept",
        "  dropped: 1 with two identical completions",
        "  cut to 6 tokens (truncate_prompt_left): prompts 2, completions 1",
        "  prompts of which almost nothing is left: 2 (raise data.max_length, or leave them out by data.truncation "
        "drop)",
        "  equal scores: 3",
        "  plain text as it is, although the model has a chat template: data.as_chat true puts it in",
    ]
    ledger.save(tmp_path / "ledger.json")
    rare = {
        "candidates",
        "dropped_unpaired",
        "unread",
        "notes",
        "seams",
        "left_out",
        "with_context",
        "desirable",
        "undesirable",
    }  # absent where none is
    rare |= {"plain_for_chat"}  # which is no count
    counts = {name: count for name, count in dataclasses.asdict(ledger).items() if name not in rare}
    assert json.loads((tmp_path / "ledger.json").read_text()) == counts


@pytest.mark.parametrize("truncation", ["truncate_prompt_left", "truncate_completion"])
def test_reference_log_probs_of_a_pair_that_is_cut_are_refused(truncation, write, tokenizer) -> None:
    known = {"ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}
    short, long = ({"prompt": prompt, "chosen": "bbb", "rejected": "ccc"} | known for prompt in ("a", "????"))
    config = write([short, long, long], max_length=6, truncation=truncation)
    with pytest.raises(ValueError, match=r"pairs\.jsonl, row 2 \(the first of 2\) is cut to 6 .*data\.truncation drop"):
        tokenise(read_rows(config)[0], tokenizer, config)


def test_reference_log_probs_of_pairs_that_are_whole_or_dropped_are_taken(write, tokenizer) -> None:
    known = {"ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}
    rows = [{"prompt": prompt, "chosen": "b", "rejected": "c"} | known for prompt in ("?" * 9, "a")]
    config = write(rows, max_length=6, truncation="drop")
    pairs, _ = tokenise(read_rows(config)[0], tokenizer, config)
    assert pairs.columns["ref_chosen_logps"].tolist() == [-1.0]


def test_a_completion_of_which_the_cut_leaves_only_context_counts_as_empty() -> None:
    pairs = pairs_of(([1], [~2, ~3, 4], [5, 6]), ([1], [2, ~3, 4], [5, 6]))
    left, counts = cut(pairs, max_length=3, policy="truncate_completion", bos=None)
    assert left.row.tolist() == [1]
    assert left.chosen[0].tolist() == [2, ~3]
    assert (counts["dropped_empty"], counts["completions_cut"]) == (1, 1)
