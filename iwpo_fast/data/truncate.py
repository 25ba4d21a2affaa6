"""Fitting pairs into the longest allowed sequence, by an explicit policy, and counting what that costs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iwpo_fast.config import TruncationPolicy
from iwpo_fast.data.context import trained_of_first
from iwpo_fast.data.pairs import CandidateTokens, Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import digests, numbered

FEW = 8
"""Tokens; a prompt that is cut to fewer asks nothing."""


def too_long(pairs: Pairs, max_length: int) -> np.ndarray:
    """bool [P]: pairs of which prompt + longer completion has more than `max_length` tokens."""
    return pairs.prompt.lengths + np.maximum(pairs.chosen.lengths, pairs.rejected.lengths) > max_length


def cut(pairs: Pairs, *, max_length: int, policy: TruncationPolicy, bos: int | None) -> tuple[Pairs, dict[str, int]]:
    """Apply `policy` to the pairs that are too long.

    `drop` leaves them out; `error` expects that there are none. `truncate_completion` cuts the ends of completions.
    `truncate_prompt_left` cuts the beginning of the prompt, behind a leading `bos` token, which stays; one prompt token
    remains, to predict the first completion token, and a completion that still does not fit loses its end.
    Whatever the policy, pairs that have no trained token in a completion, or the same two completions, are left out.

    Candidates stay responses to the prompts of their pairs: where there are any, all pairs of a prompt have it cut in
    one place, by the longest of its responses. Candidates are not cut here (`cut_candidates`), nor returned.

    Args:
        pairs: as `encode_rows` returns them.

    Returns:
        The pairs that are left, and counts of lost and changed ones under their names in `Ledger`; a lost pair is
        counted once.
    """
    prompt, chosen, rejected = pairs.prompt.lengths, pairs.chosen.lengths, pairs.rejected.lengths
    over = too_long(pairs, max_length)
    new = _new_lengths(pairs, _longest_responses(pairs), max_length, policy)
    lost = ~new.kept
    sides = ((pairs.chosen, new.chosen), (pairs.rejected, new.rejected))
    empty = np.array([trained_of_first(side, lengths) == 0 for side, lengths in sides])
    empty = ~lost & np.any(empty if pairs.present is None else empty & pairs.present.T, axis=0)
    identical = ~lost & ~empty & _identical(pairs, new.chosen, new.rejected)
    keep = np.flatnonzero(~(lost | empty | identical))
    return _shortened(pairs, keep, new, bos), {
        "too_long": int(over.sum()),
        "dropped_too_long": int(lost.sum()),
        "dropped_empty": int(empty.sum()),
        "dropped_identical": int(identical.sum()),
        "prompts_cut": int((new.prompt < prompt)[keep].sum()),
        "prompts_cut_away": int(_cut_away(prompt, new.prompt)[keep].sum()),
        "completions_cut": int((new.chosen < chosen)[keep].sum() + (new.rejected < rejected)[keep].sum()),
    }


def _cut_away(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """bool [P]: less than a tenth of a prompt is left, or fewer than eight tokens and less than half of it."""
    return (10 * after < before) | ((after < FEW) & (2 * after < before))


def fitted(
    pairs: Pairs, group: np.ndarray, *, max_length: int, policy: TruncationPolicy, bos: int | None
) -> tuple[Pairs, np.ndarray]:
    """Pairs of which every completion is wanted by itself: `policy` is applied as in `cut`, and it alone loses any.

    Args:
        group: int64 [P]; all pairs of a group keep as much of their prompt as that with the longest completion can.

    Returns:
        The pairs, and bool [P', 2], which of their completions are there. One that `drop` loses is empty beside one
        that it keeps.
    """
    sides = np.stack([pairs.chosen.lengths, pairs.rejected.lengths], axis=1)
    fits = (pairs.prompt.lengths[:, None] + sides <= max_length) | (policy != "drop")
    longest = np.zeros(int(group.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(longest, group, sides.max(axis=1))
    new = _new_lengths(pairs, longest[group], max_length, policy)
    chosen, rejected = np.where(fits, np.stack([new.chosen, new.rejected], axis=1), 0).T
    keep = np.flatnonzero(fits.any(axis=1))
    return _shortened(pairs, keep, new._replace(chosen=chosen, rejected=rejected), bos), fits[keep]


class _Lengths(NamedTuple):
    """New lengths of every pair, and whether it is kept."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    kept: np.ndarray


def _new_lengths(pairs: Pairs, longest: np.ndarray, max_length: int, policy: TruncationPolicy) -> _Lengths:
    prompt, chosen, rejected = pairs.prompt.lengths, pairs.chosen.lengths, pairs.rejected.lengths
    over = prompt + longest > max_length
    assert policy != "error" or not over.any()
    new_prompt = prompt
    if policy == "truncate_prompt_left":
        new_prompt = np.where(over, np.clip(max_length - longest, 1, prompt), prompt)
    room = np.maximum(max_length - new_prompt, 0)
    kept = ~(too_long(pairs, max_length) & (policy == "drop"))
    return _Lengths(new_prompt, np.minimum(chosen, room), np.minimum(rejected, room), kept)


def _shortened(pairs: Pairs, keep: np.ndarray, new: _Lengths, bos: int | None) -> Pairs:
    return Pairs(
        tails(pairs.prompt, keep, new.prompt[keep], bos),
        pairs.chosen.slices(pairs.chosen.offsets[keep], new.chosen[keep]),
        pairs.rejected.slices(pairs.rejected.offsets[keep], new.rejected[keep]),
        weight=pairs.weight[keep],
        row=pairs.row[keep],
        present=None if pairs.present is None else pairs.present[keep],
    )


def cut_candidates(
    pairs: Pairs, left: Pairs, *, max_length: int, policy: TruncationPolicy
) -> tuple[CandidateTokens, dict[str, int]]:
    """Fit the candidates of `pairs` behind the prompts as `cut` has left them.

    `drop` leaves out those that do not fit; any other policy cuts their ends.

    Args:
        left: what `cut` returned for `pairs`.

    Returns:
        The candidates that are left, and counts for the ledger; a lost one is counted once.
    """
    candidates = pairs.candidates
    assert candidates is not None
    group = numbered(digests(pairs.prompt))[0]
    first = np.full(len(pairs), -1, dtype=np.int64)
    kept_pairs = np.searchsorted(pairs.row, left.row)
    first[group[kept_pairs][::-1]] = np.arange(len(left))[::-1]
    pair = first[group[candidates.pair]]
    room = max_length - left.prompt.lengths[pair]
    length = candidates.completions.lengths
    alone, over = pair < 0, (pair >= 0) & (length > room)
    lost = over & (policy == "drop")
    new_length = np.where(over, np.maximum(room, 0), length)
    empty = ~alone & ~lost & (trained_of_first(candidates.completions, new_length) == 0)
    keep = np.flatnonzero(~(alone | lost | empty))
    completions = candidates.completions
    return CandidateTokens(
        completions.slices(completions.offsets[keep], new_length[keep]),
        pair=pair[keep],
        source=candidates.source[keep],
        columns={name: values[keep] for name, values in candidates.columns.items()},
    ), {
        "kept": len(keep),
        "cut": int(over[keep].sum()),
        "dropped_too_long": int(lost.sum()),
        "dropped_empty": int(empty.sum()),
        "dropped_with_their_pairs": int(alone.sum()),
    }


def _longest_responses(pairs: Pairs) -> np.ndarray:
    """int64 [P]: tokens of the longer completion, or where there are candidates of the longest of the whole prompt."""
    longest, candidates = np.maximum(pairs.chosen.lengths, pairs.rejected.lengths), pairs.candidates
    if candidates is None:
        return longest
    group = numbered(digests(pairs.prompt))[0]
    of_group = np.zeros(len(pairs), dtype=np.int64)
    np.maximum.at(of_group, group, longest)
    np.maximum.at(of_group, group[candidates.pair], candidates.completions.lengths)
    return of_group[group]


def _identical(pairs: Pairs, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """bool [P]: the first `chosen` and `rejected` tokens of the completions are the same."""
    same = np.zeros(len(chosen), dtype=bool)
    for row in map(int, np.flatnonzero(chosen == rejected)):
        length = chosen[row]
        same[row] = np.array_equal(pairs.chosen[row][:length], pairs.rejected[row][:length])
    return same


def tails(source: Ragged, rows: np.ndarray, lengths: np.ndarray, bos: int | None) -> Ragged:
    """The last `lengths` tokens of the rows, the first of them replaced by the row's leading `bos`."""
    tails = source.slices(source.offsets[rows + 1] - lengths, lengths)
    if bos is not None and len(rows):
        cut_with_bos = (source.values[source.offsets[rows]] == bos) & (lengths < source.lengths[rows])
        tails.values[tails.offsets[:-1][cut_with_bos]] = bos
    return tails
