"""The flat batch: every prompt once, completions end to end, and the tables that say what is where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.data.context import is_trained, token_ids, trained_lengths
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged, bounds_of, positions_of
from iwpo_fast.data.tensor_dataclass import TensorDataclass
from iwpo_fast.data.unique import Responses


@dataclass(frozen=True, kw_only=True)
class FlatBatch(TensorDataclass):
    """S sequences of prompt and completion, W tokens in all, laid out as T ≤ W tokens, N of them supervised.

    The first sequence of a prompt is laid out in full. Later ones leave the prompt out and share the first one's.
    Of P pairs, S = 2P, sequences 0 to P-1 are the chosen ones and P to 2P-1 the rejected ones, in the order of `rows`.
    A completion that is absent is no sequence, so S is smaller then; it keeps its place, C = 2P, among the completions.
    M completions in rank between those of the pairs come behind them, C = S = 2P + M.
    A batch of single responses has no pairs, P = 0 and C = S.

    Attributes:
        input_ids: int64 [T], token ids as they are laid out.
        position_ids: int64 [T], position of each token in its own sequence.
        cu_laid_out: int32 [S + 1], tokens cu_laid_out[s] to cu_laid_out[s + 1] are the last of sequence s.
        expand_index: int64 [W], laid-out token that is each token of the full sequences, which lie end to end and
            repeat shared prompts.
        compact_index: int64 [T], the entry of `expand_index` that each token is laid out for.
        cu_seqlens: int32 [S + 1], sequence s is entries cu_seqlens[s] to cu_seqlens[s + 1] of `expand_index`.
        max_seqlen: length of the longest sequence.
        prompt_lengths: int64 [S], tokens of each sequence's prompt, wherever it is laid out.
        hidden_index: int64 [N], flat position whose hidden state predicts a supervised token; may repeat.
        completion_index: int64 [N], flat position of each supervised token.
        labels: int64 [N], the supervised tokens, sequence after sequence: those of completions that are no context.
        segments: int64 [C + 1], supervised tokens of completion c are entries segments[c] to segments[c + 1].
        weight: float32 [P]; label_smoothing: float32 [P] or None.
        rows: int64 [P], row of each pair in its data set.
        ref_logps: float32 [2P], reference log-prob of each completion of the pairs, or None before it is known.
        ref_token_logps: float32, the same for each supervised token of the pairs, the first of the N, where asked for.
        scores: float32 [2P, k], scores of k reward models, or None.
        type_shares: float32 [P, K], how far the annotator of each pair is of each type, or None.
        present: bool [2P], which completions there are; None where all are.
        between: int64 [M], place of each completion in rank between those of a pair, in a table [P, most_between] that
            has those of a pair in a row, from the best to the worst; None where there are none.
        ref_between: float32 [M], the reference log-prob of each of those, or None where it is not asked for.
        scores_between: float32 [M], their scores, or None where they are not asked for.
        tables: what the policy's attention needs beside this, or None where the policy has to make it first.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_laid_out: Tensor
    expand_index: Tensor
    compact_index: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    prompt_lengths: Tensor
    hidden_index: Tensor
    completion_index: Tensor
    labels: Tensor
    segments: Tensor
    weight: Tensor
    rows: Tensor
    label_smoothing: Tensor | None = None
    ref_logps: Tensor | None = None
    ref_token_logps: Tensor | None = None
    scores: Tensor | None = None
    type_shares: Tensor | None = None
    present: Tensor | None = None
    between: Tensor | None = None
    most_between: int = 0
    ref_between: Tensor | None = None
    scores_between: Tensor | None = None
    tables: TensorDataclass | None = None

    @property
    def tokens(self) -> int:
        return self.input_ids.numel()

    @property
    def last_index(self) -> Tensor:
        """int64 [S], flat position of the last token of each sequence."""
        return self.expand_index[self.cu_seqlens[1:].long() - 1]

    @property
    def pairs(self) -> int:
        return self.weight.numel()

    @property
    def completions(self) -> int:
        """C, counted on the host."""
        return self.segments.shape[0] - 1

    def by_completion(self, values: Tensor) -> Tensor:
        """[P] to [C], that of the pair of each completion."""
        both = torch.cat([values, values])
        return both if self.between is None else torch.cat([both, values[self.between // self.most_between]])


def flat_batch(pairs: Pairs, rows: np.ndarray, *, ref_tokens: bool = False) -> FlatBatch:
    """Lay out the given rows, int64 [P], of `pairs`, with what is known of the reference.

    Args:
        ref_tokens: with reference log-probs of tokens, not of sequences alone.
    """
    part = pairs.take(rows)
    tokens = part.ref_token_logps if ref_tokens else None
    return FlatBatch(
        **_layout_of(part),
        weight=_float32(part.weight),
        rows=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
        label_smoothing=None if part.label_smoothing is None else _float32(part.label_smoothing),
        ref_logps=None if part.ref_logps is None else _by_side(part.ref_logps),
        ref_token_logps=None if tokens is None else _of_trained(part, tokens),
        scores=None if part.scores is None else _by_side(part.scores),
        type_shares=None if part.type_shares is None else _float32(part.type_shares),
        present=None if part.present is None else torch.from_numpy(part.present.T.ravel()),
        **_between(part),
    )


def _between(pairs: Pairs) -> dict[str, Any]:
    """The attributes of `FlatBatch` about completions between those of the pairs."""
    if pairs.between is None:
        return {}
    counts = pairs.between.counts
    width = max(1, int(counts.max(initial=0)))
    known, scores = pairs.between.ref_logps, pairs.between.scores
    return {
        "between": torch.from_numpy(positions_of(width * np.arange(len(pairs)), counts)),
        "most_between": width,
        "ref_between": None if known is None else _float32(known),
        "scores_between": None if scores is None else _float32(scores),
    }


def _layout_of(pairs: Pairs) -> dict[str, Any]:
    """The attributes of `FlatBatch` that lay out the completions that these pairs have."""
    prompt_of, sides = np.tile(np.arange(len(pairs)), 2), [pairs.chosen, pairs.rejected]
    if pairs.between is not None:
        prompt_of = np.concatenate([prompt_of, np.repeat(np.arange(len(pairs)), pairs.between.counts)])
        sides.append(pairs.between.completions)
    completions = Ragged.concatenate(sides)
    if pairs.present is None:
        return _layout(pairs.prompt, prompt_of, completions)
    there = np.flatnonzero(pairs.present.T)
    segments = torch.from_numpy(bounds_of(trained_lengths(completions)))
    return _layout(pairs.prompt, prompt_of[there], completions.take(there)) | {"segments": segments}


def _of_trained(pairs: Pairs, values: tuple[Ragged, Ragged]) -> Tensor:
    """float32 [N], of values of all tokens of chosen and rejected completions those of supervised ones."""
    sides = zip((pairs.chosen, pairs.rejected), values, strict=True)
    return _float32(np.concatenate([of_side.values[is_trained(side.values)] for side, of_side in sides]))


def flat_responses(responses: Responses, rows: np.ndarray) -> FlatBatch:
    """Lay out the given responses, int64 [S], each behind its prompt."""
    prompts, completions = responses.prompts.take(responses.prompt_of[rows]), responses.completions.take(rows)
    none = torch.empty(0, dtype=torch.int64)
    return FlatBatch(**_layout(prompts, np.arange(len(rows)), completions), weight=none.float(), rows=none)


def _layout(prompts: Ragged, prompt_of: np.ndarray, completions: Ragged) -> dict[str, Any]:
    """The attributes of `FlatBatch` that lay out S completions behind rows `prompt_of` [S] of `prompts`."""
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
    tokens[completion_index] = token_ids(completions.values)
    # The token before a completion token predicts it; for the first that is the last of the prompt.
    hidden_index = completion_index - 1
    there = of_completion > 0
    hidden_index[completions.offsets[:-1][there]] = (prompt_start + of_prompt - 1)[there]
    supervised = is_trained(completions.values)
    laid_out_lengths = np.diff(laid_out)
    expand_index = positions_of(_interleaved(prompt_start, completion_start), _interleaved(of_prompt, of_completion))
    values = {
        "input_ids": tokens,
        "position_ids": positions_of(of_prompt - laid_out_prompt, laid_out_lengths),
        "cu_laid_out": laid_out.astype(np.int32),
        "compact_index": positions_of(sequences[1:] - laid_out_lengths, laid_out_lengths),
        "expand_index": expand_index,
        "cu_seqlens": sequences.astype(np.int32),
        "prompt_lengths": of_prompt,
        "hidden_index": hidden_index[supervised],
        "completion_index": completion_index[supervised],
        "labels": completions.values[supervised].astype(np.int64),
        "segments": bounds_of(trained_lengths(completions)),
    }
    return {name: torch.from_numpy(value) for name, value in values.items()} | {
        "max_seqlen": int(np.diff(sequences).max())
    }


def _first_of_prompt(prompts: Ragged, prompt_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [S] each: the first row of `prompts` that equals each sequence's prompt, and the first sequence with it."""
    rows: dict[bytes, int] = {}
    row = np.array([rows.setdefault(prompts[i].tobytes(), i) for i in range(len(prompts))], dtype=np.int64)[prompt_of]
    sequences: dict[int, int] = {}
    return row, np.array([sequences.setdefault(r, s) for s, r in enumerate(row.tolist())], dtype=np.int64)


def _interleaved(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[n] and [n] to [2n], the first of each, then the second of each, and so on."""
    return np.stack([first, second], axis=1).ravel()


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _by_side(values: np.ndarray) -> Tensor:
    """[P, 2, ...] to float32 [2P, ...], all chosen ones first."""
    return _float32(np.concatenate([values[:, 0], values[:, 1]]))
