"""Tokenised preference pairs: what every stage after tokenisation reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from iwpo_fast.data.annotators import SHARES
from iwpo_fast.data.context import trained_lengths
from iwpo_fast.data.ragged import Ragged, bounds_of, positions_of


@dataclass(frozen=True)
class CandidateTokens:
    """K candidates: responses to the prompts of pairs, perhaps in none of them, as token ids.

    Attributes:
        completions: int32 token ids, K rows, as those of `Pairs`.
        pair: int64 [K], a pair with the prompt that each of them answers, the first of these where they were tokenised.
        source: int64 [K], which of the candidates of the rows each was read as.
        columns: float64 [K] each, as of `Candidates`.
        ref_logps: float32 [K], log-probs under the reference, or None before they are known.
    """

    completions: Ragged
    pair: np.ndarray
    source: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    ref_logps: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pair)

    def token_fingerprint(self) -> str:
        """Hash of the token ids and the pairs they belong to."""
        return hash_of(self.pair, self.completions.offsets, self.completions.values)


@dataclass(frozen=True)
class Between:
    """M completions that are trained on beside pairs, from the best to the worst of each.

    Attributes:
        completions: int32 token ids, M rows, as those of `Pairs`.
        offsets: int64 [P + 1], those of pair p are rows offsets[p] to offsets[p + 1].
        ref_logps: float32 [M], log-probs under the reference, or None before they are known.
        scores: float64 [M], or None where the objective reads their order alone.
    """

    completions: Ragged
    offsets: np.ndarray
    ref_logps: np.ndarray | None = None
    scores: np.ndarray | None = None

    @property
    def counts(self) -> np.ndarray:
        """int64 [P], how many each pair has."""
        return np.diff(self.offsets)

    @property
    def tokens(self) -> np.ndarray:
        """int64 [P], of those of each pair together."""
        return np.diff(self.completions.offsets[self.offsets])

    def take(self, rows: np.ndarray) -> Between:
        """Those of the given pairs, in the given order."""
        counts = self.counts[rows]
        taken = positions_of(self.offsets[rows], counts)
        known = None if self.ref_logps is None else self.ref_logps[taken]
        scores = None if self.scores is None else self.scores[taken]
        return Between(self.completions.take(taken), bounds_of(counts), known, scores)

    def as_candidates(self) -> CandidateTokens:
        """The same completions as candidates of their pairs, as which a pass over all responses runs them."""
        pair = np.repeat(np.arange(len(self.counts)), self.counts)
        return CandidateTokens(self.completions, pair=pair, source=np.arange(len(pair)))


@dataclass(frozen=True)
class Pairs:
    """P preference pairs (x, y_w, y_l) as token ids.

    Attributes:
        prompt, chosen, rejected: int32 token ids, P rows each; completions end with their end token, and those of their
            tokens that are context alone are stored as `iwpo_fast.data.context` says.
        weight: float64 [P], importance weight of each pair; ones unless the data has a `weight` column.
        label_smoothing: float64 [P] in [0, 1), the probability that the label is flipped, or None.
        columns: further float64 [P] columns carried along: `ref_chosen_logps`, `ref_rejected_logps`,
            `score_chosen`, `score_rejected` ([P, k] for k reward models), `cluster`, `annotator`, `type_shares`.
        row: int64 [P], row of each pair among those that were read; empty for pairs from elsewhere.
        ref_logps: float32 [P, 2], log-probs of chosen and rejected under the reference, or None before they are known.
        ref_token_logps: float32, the same for each token of `chosen` and of `rejected`; None where the data brought
            only the sums.
        candidates: further responses to the prompts of these pairs, or None.
        between: completions that are trained on beside the pairs, or None.
        present: bool [P, 2], which completions there are; None where all are. One that is absent has no tokens, and its
            pair stands for a row of one completion that is desirable, as chosen, or undesirable, as rejected.
    """

    prompt: Ragged
    chosen: Ragged
    rejected: Ragged
    weight: np.ndarray
    label_smoothing: np.ndarray | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    row: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    ref_logps: np.ndarray | None = None
    ref_token_logps: tuple[Ragged, Ragged] | None = None
    candidates: CandidateTokens | None = None
    between: Between | None = None
    present: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def noun(self) -> str:
        """What they are called in a line for people."""
        return "pairs" if self.present is None else "rows"

    @cached_property
    def tokens(self) -> np.ndarray:
        """int64 [P]: tokens of the sequences of each pair, the prompt counted with each of its completions."""
        repeated = 1 if self.present is None else self.present.sum(1) - 1
        if self.between is not None:
            repeated = repeated + self.between.counts
        return self.tokens_laid_out + repeated * self.prompt.lengths

    @cached_property
    def tokens_laid_out(self) -> np.ndarray:
        """int64 [P]: tokens of each pair with its prompt once."""
        between = 0 if self.between is None else self.between.tokens
        return self.prompt.lengths + self.chosen.lengths + self.rejected.lengths + between

    @cached_property
    def tokens_trained(self) -> np.ndarray:
        """int64 [P, 2]: tokens of the chosen and of the rejected completion that are trained."""
        return np.stack([trained_lengths(self.chosen), trained_lengths(self.rejected)], axis=1)

    @cached_property
    def scores(self) -> np.ndarray | None:
        """float32 [P, 2, k]: scores of chosen and rejected by k reward models, 0 in rows of one completion; or None."""
        if "score_chosen" not in self.columns:
            return None
        both = np.stack([self.columns["score_chosen"], self.columns["score_rejected"]], axis=1)
        scores = both.reshape(len(self), 2, -1).astype(np.float32)
        if self.present is not None:
            scores[~self.present.all(axis=1)] = 0
        return scores

    @property
    def type_shares(self) -> np.ndarray | None:
        """float64 [P, K]: how far the annotator of each pair is of each type, or None."""
        return self.columns.get(SHARES)

    def take(self, rows: np.ndarray) -> Pairs:
        """The given rows, in the given order, without candidates."""
        tokens = self.ref_token_logps
        return Pairs(
            prompt=self.prompt.take(rows),
            chosen=self.chosen.take(rows),
            rejected=self.rejected.take(rows),
            weight=self.weight[rows],
            label_smoothing=None if self.label_smoothing is None else self.label_smoothing[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
            row=self.row[rows] if len(self.row) else self.row,
            ref_logps=None if self.ref_logps is None else self.ref_logps[rows],
            ref_token_logps=None if tokens is None else (tokens[0].take(rows), tokens[1].take(rows)),
            between=None if self.between is None else self.between.take(rows),
            present=None if self.present is None else self.present[rows],
        )

    def only(self, present: np.ndarray | None) -> Pairs:
        """With these completions alone, bool [P, 2]; None leaves all."""
        if present is None:
            return self
        chosen, rejected = (
            side.slices(side.offsets[:-1], side.lengths * there)
            for side, there in zip((self.chosen, self.rejected), present.T, strict=True)
        )
        return replace(self, chosen=chosen, rejected=rejected, present=present)

    def token_fingerprint(self) -> str:
        """Hash of the pairs' token ids: equal for data that differs only in weights, scores or candidates."""
        parts = (self.prompt, self.chosen, self.rejected)
        return hash_of(*(array for part in parts for array in (part.offsets, part.values)))

    def fingerprint(self) -> str:
        """Hash of everything that training reads: tokens, weights, label smoothing, further columns and completions."""
        digest = hashlib.sha256(self.token_fingerprint().encode())
        columns = {"weight": self.weight, "label_smoothing": self.label_smoothing, **self.columns}
        for name, values in sorted(columns.items()):
            if values is not None:
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(values).tobytes())
        if (between := self.between) is not None:
            digest.update(hash_of(between.offsets, between.completions.offsets, between.completions.values).encode())
            if between.scores is not None:
                digest.update(hash_of(between.scores).encode())
        return digest.hexdigest()


def hash_of(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
