from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data.encode import Tokens
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.truncate import cut

BOS = 0


def tokens_of(*triples: tuple[list[int], list[int], list[int]]) -> Tokens:
    parts = (Ragged.from_rows(part) for part in zip(*triples, strict=True))
    return Tokens(np.arange(len(triples)), *parts)


def lists(tokens: Tokens) -> list[tuple[list[int], ...]]:
    parts = (tokens.prompt, tokens.chosen, tokens.rejected)
    return [tuple(part[row].tolist() for part in parts) for row in range(len(tokens.rows))]


PROMPT, CHOSEN, REJECTED = [1, 2, 3, 4], [11, 12, 13], [21, 22]
SHORT = ([1], [11], [21])


def test_what_fits_exactly_is_untouched_by_every_policy():
    for policy in ("drop", "truncate_prompt_left", "truncate_completion", "error"):
        result = cut(tokens_of((PROMPT, CHOSEN, REJECTED)), max_length=7, policy=policy, bos=None)
        assert lists(result.tokens) == [(PROMPT, CHOSEN, REJECTED)]
        assert (result.dropped_too_long, result.prompts_cut, result.completions_cut) == (0, 0, 0)


def test_drop_leaves_out_pairs_of_which_one_sequence_is_too_long():
    result = cut(tokens_of((PROMPT, CHOSEN, REJECTED), SHORT), max_length=6, policy="drop", bos=None)
    assert lists(result.tokens) == [SHORT]
    assert result.tokens.rows.tolist() == [1]
    assert result.dropped_too_long == 1


def test_the_prompt_loses_its_beginning():
    result = cut(tokens_of((PROMPT, CHOSEN, REJECTED)), max_length=5, policy="truncate_prompt_left", bos=None)
    assert lists(result.tokens) == [([3, 4], CHOSEN, REJECTED)]
    assert (result.prompts_cut, result.completions_cut) == (1, 0)


def test_the_prompt_keeps_its_beginning_of_sequence_token():
    tokens = tokens_of(([BOS, 2, 3, 4], CHOSEN, REJECTED), (PROMPT, CHOSEN, REJECTED))
    result = cut(tokens, max_length=5, policy="truncate_prompt_left", bos=BOS)
    assert [prompt for prompt, _, _ in lists(result.tokens)] == [[BOS, 4], [3, 4]]
    assert tokens.prompt[0].tolist() == [BOS, 2, 3, 4]


def test_one_prompt_token_stays_and_the_completion_is_cut_for_it():
    result = cut(tokens_of((PROMPT, CHOSEN, REJECTED)), max_length=3, policy="truncate_prompt_left", bos=None)
    assert lists(result.tokens) == [([4], [11, 12], [21, 22])]
    assert (result.prompts_cut, result.completions_cut) == (1, 1)


def test_completions_lose_their_ends():
    result = cut(tokens_of((PROMPT, CHOSEN, REJECTED)), max_length=5, policy="truncate_completion", bos=None)
    assert lists(result.tokens) == [(PROMPT, [11], [21])]
    assert (result.prompts_cut, result.completions_cut) == (0, 2)


def test_completions_that_become_empty_are_dropped_and_counted():
    result = cut(tokens_of((PROMPT, CHOSEN, REJECTED), SHORT), max_length=4, policy="truncate_completion", bos=None)
    assert lists(result.tokens) == [SHORT]
    assert (result.dropped_empty, result.completions_cut) == (1, 0)


def test_completions_that_become_identical_are_dropped_and_counted():
    tokens = tokens_of((PROMPT, [7, 8, 9], [7, 8, 5]), SHORT)
    result = cut(tokens, max_length=6, policy="truncate_completion", bos=None)
    assert lists(result.tokens) == [SHORT]
    assert (result.dropped_identical, result.completions_cut) == (1, 0)


ids = st.lists(st.integers(0, 3), min_size=1, max_size=8)
policies = st.sampled_from(["drop", "truncate_prompt_left", "truncate_completion"])


@given(st.lists(st.tuples(ids, ids, ids), min_size=1, max_size=6), policies, st.integers(2, 12))
def test_whatever_the_policy_pairs_fit_and_are_parts_of_their_source_and_all_are_accounted_for(rows, policy, longest):
    result = cut(tokens_of(*rows), max_length=longest, policy=policy, bos=None)
    prompts_cut = completions_cut = 0
    for row, (prompt, chosen, rejected) in zip(result.tokens.rows, lists(result.tokens), strict=True):
        source = rows[row]
        assert len(prompt) + max(len(chosen), len(rejected)) <= longest
        assert prompt and chosen and rejected
        assert source[0][-len(prompt) :] == prompt
        assert (source[1][: len(chosen)], source[2][: len(rejected)]) == (chosen, rejected)
        assert chosen != rejected
        prompts_cut += prompt != source[0]
        completions_cut += (chosen != source[1]) + (rejected != source[2])
    lost = result.dropped_too_long + result.dropped_empty + result.dropped_identical
    assert len(result.tokens.rows) + lost == len(rows)
    assert (result.prompts_cut, result.completions_cut) == (prompts_cut, completions_cut)


def test_the_policy_error_names_the_first_row_and_their_number(write, tokenizer):
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, *[{"prompt": "?" * 9, "chosen": "b", "rejected": "c"}] * 3]
    config = write(rows, max_length=6, truncation="error")
    with pytest.raises(ValueError, match=r"row 2 \(the first of 3\) has 11 tokens: raise data\.max_length"):
        tokenise(read_rows(config).train, tokenizer, config)


def test_the_ledger_adds_up_and_says_so_in_words_and_in_a_file(write, tokenizer, tmp_path):
    long = {"prompt": "?" * 9, "chosen": "b", "rejected": "c"}
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        long,
        long | {"chosen": "!" * 6},
    ]
    scored = [row | {"score_chosen": 1.0, "score_rejected": 1.0} for row in rows]
    config = write(scored, max_length=6)
    _, ledger = tokenise(read_rows(config).train, tokenizer, config)
    assert ledger.rows_read == ledger.kept + sum(ledger.dropped.values()) == 4
    assert ledger.truncated_fraction == 0.5
    assert ledger.lines() == [
        "pairs.jsonl: 4 pairs read, 3 kept",
        "  dropped: 1 with two identical completions",
        "  cut to 6 tokens (truncate_prompt_left): prompts 2, completions 1",
        "  equal scores: 3",
    ]
    ledger.save(tmp_path / "ledger.json")
    assert json.loads((tmp_path / "ledger.json").read_text()) == dataclasses.asdict(ledger)


@pytest.mark.parametrize("truncation", ["truncate_prompt_left", "truncate_completion"])
def test_reference_log_probs_of_a_pair_that_is_cut_are_refused(truncation, write, tokenizer):
    known = {"ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}
    short, long = ({"prompt": prompt, "chosen": "bbb", "rejected": "ccc"} | known for prompt in ("a", "????"))
    config = write([short, long, long], max_length=6, truncation=truncation)
    with pytest.raises(ValueError, match=r"pairs\.jsonl, row 2 \(the first of 2\) is cut to 6 .*data\.truncation drop"):
        tokenise(read_rows(config).train, tokenizer, config)


def test_reference_log_probs_of_pairs_that_are_whole_or_dropped_are_taken(write, tokenizer):
    known = {"ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}
    rows = [{"prompt": prompt, "chosen": "b", "rejected": "c"} | known for prompt in ("?" * 9, "a")]
    config = write(rows, max_length=6, truncation="drop")
    pairs, _ = tokenise(read_rows(config).train, tokenizer, config)
    assert pairs.columns["ref_chosen_logps"].tolist() == [-1.0]
