"""Fitting pairs into the longest allowed sequence, by an explicit policy, and counting what that costs."""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import TruncationPolicy
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged


def too_long(pairs: Pairs, max_length: int) -> np.ndarray:
    """bool [P]: pairs of which prompt + longer completion has more than `max_length` tokens."""
    return pairs.prompt.lengths + np.maximum(pairs.chosen.lengths, pairs.rejected.lengths) > max_length


def cut(pairs: Pairs, *, max_length: int, policy: TruncationPolicy, bos: int | None) -> tuple[Pairs, dict[str, int]]:
    """Apply `policy` to the pairs that are too long.

    `drop` leaves them out; `error` expects that there are none. `truncate_completion` cuts the ends of completions.
    `truncate_prompt_left` cuts the beginning of the prompt, behind a leading `bos` token, which stays; one prompt token
    remains, to predict the first completion token, and a completion that still does not fit loses its end.
    Whatever the policy, pairs that have no token in a completion, or the same two completions, are left out.

    Args:
        pairs: as `encode_rows` returns them.

    Returns:
        The pairs that are left, and counts of lost and changed ones under their names in `Ledger`; a lost pair is
        counted once.
    """
    prompt, chosen, rejected = pairs.prompt.lengths, pairs.chosen.lengths, pairs.rejected.lengths
    over = too_long(pairs, max_length)
    assert policy != "error" or not over.any()
    new_prompt, lost = prompt, over & (policy == "drop")
    if policy == "truncate_prompt_left":
        new_prompt = np.where(over, np.clip(max_length - np.maximum(chosen, rejected), 1, prompt), prompt)
    room = np.maximum(max_length - new_prompt, 0)
    new_chosen, new_rejected = np.minimum(chosen, room), np.minimum(rejected, room)

    empty = ~lost & ((new_chosen == 0) | (new_rejected == 0))
    identical = ~lost & ~empty & _identical(pairs, new_chosen, new_rejected)
    keep = np.flatnonzero(~(lost | empty | identical))
    left = Pairs(
        _tails(pairs.prompt, keep, new_prompt[keep], bos),
        pairs.chosen.slices(pairs.chosen.offsets[keep], new_chosen[keep]),
        pairs.rejected.slices(pairs.rejected.offsets[keep], new_rejected[keep]),
        weight=pairs.weight[keep],
        row=pairs.row[keep],
    )
    return left, {
        "too_long": int(over.sum()),
        "dropped_too_long": int(lost.sum()),
        "dropped_empty": int(empty.sum()),
        "dropped_identical": int(identical.sum()),
        "prompts_cut": int((new_prompt < prompt)[keep].sum()),
        "completions_cut": int((new_chosen < chosen)[keep].sum() + (new_rejected < rejected)[keep].sum()),
    }


def _identical(pairs: Pairs, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """bool [P]: the first `chosen` and `rejected` tokens of the completions are the same."""
    same = np.zeros(len(chosen), dtype=bool)
    for row in map(int, np.flatnonzero(chosen == rejected)):
        length = chosen[row]
        same[row] = np.array_equal(pairs.chosen[row][:length], pairs.rejected[row][:length])
    return same


def _tails(source: Ragged, rows: np.ndarray, lengths: np.ndarray, bos: int | None) -> Ragged:
    """The last `lengths` tokens of the rows, the first of them replaced by the row's leading `bos`."""
    tails = source.slices(source.offsets[rows + 1] - lengths, lengths)
    if bos is not None and len(rows):
        with_bos = source.values[source.offsets[rows]] == bos
        tails.values[tails.offsets[:-1][with_bos]] = bos
    return tails
