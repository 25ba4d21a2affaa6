"""The flat batch: every prompt once, completions end to end, and the tables that say what is where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.data.movable import Movable
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged, bounds_of, positions_of


@dataclass(frozen=True, kw_only=True)
class FlatSequences(Movable):
    """S sequences of prompt and completion, W tokens in all, laid out as T ≤ W tokens, N of them supervised.

    The first sequence of a prompt is laid out whole. Later ones leave the prompt out and share the first one's.

    Attributes:
        input_ids: int64 [T], token ids as they are laid out.
        position_ids: int64 [T], position of each token in its own sequence.
        cu_laid_out: int32 [S + 1], tokens cu_laid_out[s] to cu_laid_out[s + 1] are laid out for sequence s, its last.
        own: int64 [T], entry of `whole` for which each token is laid out.
        whole: int64 [W], flat position of every token of the sequences end to end, shared prompts repeated.
        cu_seqlens: int32 [S + 1], sequence s is entries cu_seqlens[s] to cu_seqlens[s + 1] of `whole`.
        max_seqlen: length of the longest sequence.
        hidden_index: int64 [N], flat position whose hidden state predicts a supervised token; may repeat.
        completion_index: int64 [N], flat position of each supervised token.
        labels: int64 [N], the supervised (completion) tokens, sequence after sequence.
        segments: int64 [S + 1], supervised tokens of sequence s are entries segments[s] to segments[s + 1].
        tables: what a policy needs beside this to run the batch, or None where it has to make that first.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_laid_out: Tensor
    own: Tensor
    whole: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    hidden_index: Tensor
    completion_index: Tensor
    labels: Tensor
    segments: Tensor
    tables: Movable | None = None

    @property
    def tokens(self) -> int:
        return self.input_ids.numel()


@dataclass(frozen=True, kw_only=True)
class FlatBatch(FlatSequences):
    """P pairs as S = 2P sequences: 0..P-1 are the chosen ones, P..2P-1 the rejected ones, in the order of `rows`.

    Attributes:
        weight: float32 [P]; label_smoothing: float32 [P] or None.
        ref_logps: float32 [S], reference log-prob of each sequence, or None before it is known.
        ref_token_logps: float32 [N], the same for each supervised token, where asked for.
        scores: float32 [S, k], scores of k reward models, or None.
        rows: int64 [P], row of each pair in its data set.
    """

    weight: Tensor
    label_smoothing: Tensor | None
    ref_logps: Tensor | None
    ref_token_logps: Tensor | None
    scores: Tensor | None
    rows: Tensor

    @property
    def pairs(self) -> int:
        return self.weight.numel()


def flat_batch(
    pairs: Pairs,
    rows: np.ndarray,
    ref_logps: np.ndarray | None = None,
    ref_tokens: tuple[Ragged, Ragged] | None = None,
) -> FlatBatch:
    """Lay out the given rows of `pairs`.

    Args:
        pairs: P_all tokenised pairs.
        rows: int64 [P], which of them.
        ref_logps: float32 [P_all, 2], reference log-probs (chosen, rejected), or None.
        ref_tokens: float32, the same for each completion token (chosen, rejected), or None.
    """
    prompts, chosen, rejected = (_take(part, rows) for part in (pairs.prompt, pairs.chosen, pairs.rejected))
    prompt_of = np.tile(np.arange(len(rows)), 2)
    smoothing = pairs.label_smoothing
    return FlatBatch(
        **_layout(prompts, prompt_of, Ragged.concatenate([chosen, rejected])),
        weight=torch.from_numpy(pairs.weight[rows].astype(np.float32)),
        label_smoothing=None if smoothing is None else torch.from_numpy(smoothing[rows].astype(np.float32)),
        ref_logps=None if ref_logps is None else _by_side(ref_logps[rows]),
        ref_token_logps=None if ref_tokens is None else _end_to_end(ref_tokens, rows),
        scores=None if pairs.scores is None else _by_side(pairs.scores[rows]),
        rows=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
    )


def flat_sequences(prompts: Ragged, prompt_of: np.ndarray, completions: Ragged, rows: np.ndarray) -> FlatSequences:
    """Lay out the given rows of `completions`, each behind its prompt.

    Args:
        prompts: token ids.
        prompt_of: int64 [C], row of `prompts` of each completion.
        completions: token ids of C completions.
        rows: int64 [S], which of them.
    """
    own_prompts = prompt_of[rows]
    return FlatSequences(**_layout(_take(prompts, own_prompts), np.arange(len(rows)), _take(completions, rows)))


def _layout(prompts: Ragged, prompt_of: np.ndarray, completions: Ragged) -> dict[str, Any]:
    """The attributes of `FlatSequences` for S completions behind rows `prompt_of` [S] of `prompts`."""
    row, first = _first_of_prompt(prompts, prompt_of)
    of_prompt, of_completion = prompts.lengths[row], completions.lengths
    laid_out_prompt = np.where(first == np.arange(len(row)), of_prompt, 0)
    laid_out = bounds_of(laid_out_prompt + of_completion)
    sequences = bounds_of(of_prompt + of_completion)
    prompt_start, completion_start = laid_out[first], laid_out[1:] - of_completion
    completion_index = positions_of(completion_start, of_completion)

    tokens = np.empty(laid_out[-1], dtype=np.int64)
    tokens[positions_of(laid_out[:-1], laid_out_prompt)] = prompts.values[
        positions_of(prompts.offsets[row], laid_out_prompt)
    ]
    tokens[completion_index] = completions.values
    # The token before a completion token predicts it; for the first that is the last of the prompt.
    hidden_index = completion_index - 1
    supervised = of_completion > 0
    hidden_index[completions.offsets[:-1][supervised]] = (prompt_start + of_prompt - 1)[supervised]
    laid_out_lengths = np.diff(laid_out)
    whole = positions_of(_by_turns(prompt_start, completion_start), _by_turns(of_prompt, of_completion))
    values = {
        "input_ids": tokens,
        "position_ids": positions_of(of_prompt - laid_out_prompt, laid_out_lengths),
        "cu_laid_out": laid_out.astype(np.int32),
        "own": positions_of(sequences[1:] - laid_out_lengths, laid_out_lengths),
        "whole": whole,
        "cu_seqlens": sequences.astype(np.int32),
        "hidden_index": hidden_index,
        "completion_index": completion_index,
        "labels": completions.values.astype(np.int64),
        "segments": completions.offsets,
    }
    return {name: torch.from_numpy(value) for name, value in values.items()} | {
        "max_seqlen": int(np.diff(sequences).max())
    }


def _first_of_prompt(prompts: Ragged, prompt_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [S] each: the first row of `prompts` with each sequence's prompt, and the first sequence that has it."""
    rows: dict[bytes, int] = {}
    row = np.array([rows.setdefault(prompts[i].tobytes(), i) for i in range(len(prompts))], dtype=np.int64)[prompt_of]
    sequences: dict[int, int] = {}
    return row, np.array([sequences.setdefault(r, s) for s, r in enumerate(row.tolist())], dtype=np.int64)


def _by_turns(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[n] and [n] to [2n], the first of each, then the second of each, and so on."""
    return np.stack([first, second], axis=1).ravel()


def _take(part: Ragged, rows: np.ndarray) -> Ragged:
    return Ragged(part.values[positions_of(part.offsets[rows], part.lengths[rows])], bounds_of(part.lengths[rows]))


def _by_side(values: np.ndarray) -> Tensor:
    """[P, 2, ...] to float32 [2P, ...], all chosen ones first."""
    return torch.from_numpy(np.concatenate([values[:, 0], values[:, 1]]).astype(np.float32))


def _end_to_end(parts: Sequence[Ragged], rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([_take(part, rows).values for part in parts]).astype(np.float32))
