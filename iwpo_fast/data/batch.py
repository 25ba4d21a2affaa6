"""The flat batch: every prompt once, completions end to end, and the tables that say what is where."""

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
    """P pairs as S = 2P sequences of W tokens in all, laid out as T ≤ W tokens, N of them supervised.

    Sequences 0..P-1 are the chosen ones, P..2P-1 the rejected ones, in the order of `rows`. The first sequence of a
    prompt is laid out whole. Later ones, of this pair or another, leave the prompt out and share the first one's.

    Attributes:
        input_ids: int64 [T], token ids as they are laid out.
        position_ids: int64 [T], position of each token in its own sequence.
        cu_laid_out: int32 [S + 1], tokens cu_laid_out[s] to cu_laid_out[s + 1] are laid out for sequence s, its last.
        whole: int64 [W], flat position of every token of the sequences end to end, shared prompts repeated.
        cu_seqlens: int32 [S + 1], sequence s is entries cu_seqlens[s] to cu_seqlens[s + 1] of `whole`.
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
    cu_laid_out: Tensor
    whole: Tensor
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

    @property
    def completion_index(self) -> Tensor:
        """int64 [N], flat position of each supervised token."""
        shift = (self.cu_laid_out[1:] - self.segments[1:]).repeat_interleave(
            self.segments.diff(), output_size=self.labels.numel()
        )
        return torch.arange(len(shift), device=shift.device) + shift

    @property
    def own(self) -> Tensor:
        """int64 [T], entry of `whole` for which each token is laid out."""
        sequence_ends, ends = self.cu_seqlens[1:].long(), self.cu_laid_out[1:].long()
        shift = (sequence_ends - ends).repeat_interleave(self.cu_laid_out.diff(), output_size=self.tokens)
        return torch.arange(self.tokens, device=shift.device) + shift

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
    sequences = [(pairs.prompt[int(row)], part[int(row)]) for part in (pairs.chosen, pairs.rejected) for row in rows]
    tokens, positions, whole, hidden_index = [], [], [], []
    laid_out = [0]
    starts: dict[bytes, int] = {}
    for prompt, completion in sequences:
        end = laid_out[-1]
        start = starts.setdefault(prompt.tobytes(), end)
        if start == end:
            tokens.append(prompt)
            positions.append(np.arange(len(prompt)))
            end += len(prompt)
        shared = np.arange(start, start + len(prompt))
        own = np.arange(end, end + len(completion))
        tokens.append(completion)
        positions.append(len(prompt) + np.arange(len(completion)))
        whole += [shared, own]
        # The token before a completion token predicts it; for the first that is the last of the prompt.
        hidden_index.append(np.concatenate([shared[-1:], own])[: len(own)])
        laid_out.append(end + len(completion))
    lengths = np.array([len(prompt) + len(completion) for prompt, completion in sequences], dtype=np.int64)
    supervised = np.array([len(completion) for _, completion in sequences], dtype=np.int64)
    smoothing = pairs.label_smoothing
    return FlatBatch(
        input_ids=torch.from_numpy(np.concatenate(tokens).astype(np.int64)),
        position_ids=torch.from_numpy(np.concatenate(positions)),
        cu_laid_out=torch.tensor(laid_out, dtype=torch.int32),
        whole=torch.from_numpy(np.concatenate(whole)),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        max_seqlen=int(lengths.max()),
        hidden_index=torch.from_numpy(np.concatenate(hidden_index)),
        labels=torch.from_numpy(np.concatenate([completion for _, completion in sequences]).astype(np.int64)),
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
