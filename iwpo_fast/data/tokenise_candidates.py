"""From candidates as text to their token ids, and the account of what was lost on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data.encode import encode_candidates
from iwpo_fast.data.pairs import CandidateTokens, Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.read import mismatch_error
from iwpo_fast.data.rows import Candidates, Rows
from iwpo_fast.data.token_cache import candidates_path, load_candidates, save_candidates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def candidate_tokens(
    rows: Rows, pairs: Pairs, tokenizer: PreTrainedTokenizerBase, config: DataConfig, progress: bool = False
) -> CandidateTokens:
    """The candidates of the rows behind the prompts of their pairs, not yet cut; from the cache if they are there.

    Args:
        pairs: the rows as `encode_rows` returns them; the candidates of a row that is not among them are left out.

    Raises:
        ValueError: a candidate does not begin with its prompt's tokens, or is too long, and the policies do not allow
            for it.
    """
    candidates = rows.candidates
    assert candidates is not None
    kept, completions = _encoded(rows, pairs, tokenizer, config, progress)
    of_pairs = np.flatnonzero(np.isin(candidates.row, pairs.row))
    missing = np.setdiff1d(of_pairs, kept)
    if len(missing) and config.on_prefix_mismatch == "error":
        what = "has a candidate behind which the prompt's tokens are not the first of prompt + candidate"
        raise mismatch_error(what, rows.where(candidates.row[missing[0]]), len(missing))
    place = np.full(len(rows), -1, dtype=np.int64)
    place[pairs.row] = np.arange(len(pairs))
    pair = place[candidates.row[kept]]
    there = np.flatnonzero(pair >= 0)
    found = CandidateTokens(
        completions.take(there),
        pair=pair[there],
        source=kept[there],
        columns={name: values[kept[there]] for name, values in candidates.columns.items()},
    )
    _check_lengths(rows, pairs, found, config)
    return found


def candidate_counts(candidates: Candidates, encoded: Pairs, counts: dict[str, int]) -> dict[str, int]:
    """What `Ledger.candidates` says.

    Args:
        encoded: the pairs before they were cut, with their candidates.
        counts: what `cut_candidates` counted.
    """
    assert encoded.candidates is not None
    read = candidates.counts
    return (
        read
        | counts
        | {
            "dropped_empty": counts["dropped_empty"] + read["dropped_empty"],
            "dropped_prefix_mismatch": len(candidates) - len(encoded.candidates),
        }
    )


def _encoded(
    rows: Rows, pairs: Pairs, tokenizer: PreTrainedTokenizerBase, config: DataConfig, progress: bool
) -> tuple[np.ndarray, Ragged]:
    assert rows.candidates is not None
    if not len(rows.candidates):
        return np.empty(0, dtype=np.int64), Ragged.from_rows([])
    path = candidates_path(rows, pairs, tokenizer, config)
    found = load_candidates(path)
    if found is None:
        found = encode_candidates(rows, tokenizer, config, pairs=pairs, progress=progress)
        save_candidates(path, *found)
    return found


def _check_lengths(rows: Rows, pairs: Pairs, candidates: CandidateTokens, config: DataConfig) -> None:
    length = pairs.prompt.lengths[candidates.pair] + candidates.completions.lengths
    over = np.flatnonzero(length > config.max_length)
    if len(over) and config.truncation == "error":
        raise ValueError(
            f"{rows.where(pairs.row[candidates.pair[over[0]]])} has a candidate of "
            f"{length[over[0]]} tokens with its prompt: raise data.max_length from {config.max_length}, or choose "
            "another data.truncation than error."
        )
