"""Tokens of a completion that are read and not trained, such as a user's turn between two answers.

Such a token is stored as the complement of its id, ~id = -1 - id, which is negative. So it goes wherever the completion
goes, through caches, cuts and copies, and a completion without any is stored as its token ids alone.
"""

from __future__ import annotations

import numpy as np

from iwpo_fast.data.ragged import Ragged, bounds_of, rows_at_once


def as_context(ids: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """int32, the token ids with those marked as context that are not `trained`, bool of the same shape."""
    return np.where(trained, ids, ~ids).astype(np.int32)


def token_ids(values: np.ndarray) -> np.ndarray:
    """The ids of stored tokens, whether they are trained or not."""
    return np.where(values < 0, ~values, values)


def is_trained(values: np.ndarray) -> np.ndarray:
    """bool, which of the stored tokens are trained."""
    return values >= 0


def trained_lengths(rows: Ragged) -> np.ndarray:
    """int64, how many tokens of each row are trained."""
    return trained_of_first(rows, rows.lengths)


def trained_of_first(rows: Ragged, lengths: np.ndarray) -> np.ndarray:
    """int64, how many of the first `lengths` tokens of each row are trained."""
    found = np.empty(len(rows), dtype=np.int64)
    for some in rows_at_once(len(rows)):
        offsets = rows.offsets[some.start : some.stop + 1]
        trained = bounds_of(is_trained(rows.values[offsets[0] : offsets[-1]]))
        starts = offsets[:-1] - offsets[0]
        found[some] = trained[starts + lengths[some]] - trained[starts]
    return found
