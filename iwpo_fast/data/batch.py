"""The flat batch: sequences end to end, without padding, and the tables that say what is where."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged


@dataclass(frozen=True)
class FlatBatch:
    """P pairs as S = 2P sequences of T tokens in all, N of them supervised.

    Sequences 0..P-1 are the chosen ones, P..2P-1 the rejected ones, in the order of `rows`.

    Attributes:
        input_ids: int64 [T], token ids of all sequences end to end.
        position_ids: int64 [T], position of each token in its own sequence.
        cu_seqlens: int32 [S + 1], sequence s is tokens cu_seqlens[s] to cu_seqlens[s + 1].
        max_seqlen: length of the longest sequence.
        hidden_index: int64 [N], flat position whose hidden state predicts a supervised token; may repeat.
        labels: int64 [N], the supervised (completion) tokens, sequence after sequence.
        segments: int64 [S + 1], supervised tokens of sequence s are entries segments[s] to segments[s + 1].
        weight: float32 [P]; label_smoothing: float32 [P] or None.
        ref_logps: float32 [S], reference log-prob of each sequence, or None before it is known.
        ref_token_logps: float32 [N], the same for each supervised token, where asked for.
        scores: float32 [S, k], scores of k reward models, or None.
        rows: int64 [P], row of each pair in its data set.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    hidden_index: Tensor
    labels: Tensor
    segments: Tensor
    weight: Tensor
    label_smoothing: Tensor | None
    ref_logps: Tensor | None
    ref_token_logps: Tensor | None
    scores: Tensor | None
    rows: Tensor

    @property
    def pairs(self) -> int:
        return self.weight.numel()

    @property
    def tokens(self) -> int:
        return self.input_ids.numel()

    def to(self, device: torch.device) -> FlatBatch:
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


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
    completions = [(int(row), part[int(row)]) for part in (pairs.chosen, pairs.rejected) for row in rows]
    sequences = [np.concatenate([pairs.prompt[row], completion]) for row, completion in completions]
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    supervised = np.array([len(completion) for _, completion in completions], dtype=np.int64)
    ends = np.cumsum(lengths)
    offsets = np.concatenate([[0], ends])
    # The token before a completion token predicts it, so each range is shifted left by one.
    hidden_index = np.concatenate([np.arange(e - n - 1, e - 1) for e, n in zip(ends, supervised, strict=True)])
    smoothing = pairs.label_smoothing
    return FlatBatch(
        input_ids=torch.from_numpy(np.concatenate(sequences).astype(np.int64)),
        position_ids=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])),
        cu_seqlens=torch.from_numpy(offsets.astype(np.int32)),
        max_seqlen=int(lengths.max()),
        hidden_index=torch.from_numpy(hidden_index),
        labels=torch.from_numpy(np.concatenate([c for _, c in completions]).astype(np.int64)),
        segments=torch.from_numpy(np.concatenate([[0], np.cumsum(supervised)]).astype(np.int64)),
        weight=torch.from_numpy(pairs.weight[rows].astype(np.float32)),
        label_smoothing=None if smoothing is None else torch.from_numpy(smoothing[rows].astype(np.float32)),
        ref_logps=None if ref_logps is None else _by_side(ref_logps[rows]),
        ref_token_logps=None if ref_tokens is None else _end_to_end(ref_tokens, rows),
        scores=None if pairs.scores is None else _by_side(pairs.scores[rows]),
        rows=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
    )


def _by_side(values: np.ndarray) -> Tensor:
    """[P, 2, ...] to float32 [2P, ...], all chosen ones first."""
    return torch.from_numpy(np.concatenate([values[:, 0], values[:, 1]]).astype(np.float32))


def _end_to_end(parts: tuple[Ragged, Ragged], rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([part[int(row)] for part in parts for row in rows]).astype(np.float32))
