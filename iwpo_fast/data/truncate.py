"""Fitting pairs into the longest allowed sequence, by an explicit policy, and counting what that costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iwpo_fast.config import TruncationPolicy
from iwpo_fast.data.encode import Tokens
from iwpo_fast.data.ragged import Ragged


@dataclass(frozen=True)
class Cut:
    """Tokens after the cut, and how many pairs were lost or changed; a lost pair is counted once."""

    tokens: Tokens
    dropped_too_long: int
    dropped_empty: int
    dropped_identical: int
    prompts_cut: int
    completions_cut: int


def too_long(tokens: Tokens, max_length: int) -> np.ndarray:
    """bool [K]: pairs of which prompt + longer completion has more than `max_length` tokens."""
    return tokens.prompt.lengths + np.maximum(tokens.chosen.lengths, tokens.rejected.lengths) > max_length


def cut(tokens: Tokens, *, max_length: int, policy: TruncationPolicy, bos: int | None) -> Cut:
    """Apply `policy` to the pairs that are too long.

    `drop` leaves them out; `error` expects that there are none. `truncate_completion` cuts the ends of completions.
    `truncate_prompt_left` cuts the beginning of the prompt, behind a leading `bos` token, which stays; one prompt token
    remains, to predict the first completion token, and a completion that still does not fit loses its end.
    Whatever the policy, pairs that have no token in a completion, or the same two completions, are left out.
    """
    prompt, chosen, rejected = tokens.prompt.lengths, tokens.chosen.lengths, tokens.rejected.lengths
    over = too_long(tokens, max_length)
    assert policy != "error" or not over.any()
    new_prompt, lost = prompt, over & (policy == "drop")
    if policy == "truncate_prompt_left":
        new_prompt = np.where(over, np.clip(max_length - np.maximum(chosen, rejected), 1, prompt), prompt)
    room = np.maximum(max_length - new_prompt, 0)
    new_chosen, new_rejected = np.minimum(chosen, room), np.minimum(rejected, room)

    empty = ~lost & ((new_chosen == 0) | (new_rejected == 0))
    identical = ~lost & ~empty & _identical(tokens, new_chosen, new_rejected)
    keep = np.flatnonzero(~(lost | empty | identical))
    return Cut(
        tokens=Tokens(
            tokens.rows[keep],
            _tails(tokens.prompt, keep, new_prompt[keep], bos),
            tokens.chosen.slices(tokens.chosen.offsets[keep], new_chosen[keep]),
            tokens.rejected.slices(tokens.rejected.offsets[keep], new_rejected[keep]),
        ),
        dropped_too_long=int(lost.sum()),
        dropped_empty=int(empty.sum()),
        dropped_identical=int(identical.sum()),
        prompts_cut=int((new_prompt < prompt)[keep].sum()),
        completions_cut=int((new_chosen < chosen)[keep].sum() + (new_rejected < rejected)[keep].sum()),
    )


def _identical(tokens: Tokens, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """bool [K]: the first `chosen` and `rejected` tokens of the completions are the same."""
    same = np.zeros(len(chosen), dtype=bool)
    for row in map(int, np.flatnonzero(chosen == rejected)):
        length = chosen[row]
        same[row] = np.array_equal(tokens.chosen[row][:length], tokens.rejected[row][:length])
    return same


def _tails(source: Ragged, rows: np.ndarray, lengths: np.ndarray, bos: int | None) -> Ragged:
    """The last `lengths` tokens of the rows, the first of them replaced by the row's leading `bos`."""
    tails = source.slices(source.offsets[rows + 1] - lengths, lengths)
    if bos is not None and len(rows):
        with_bos = source.values[source.offsets[rows]] == bos
        tails.values[tails.offsets[:-1][with_bos]] = bos
    return tails
