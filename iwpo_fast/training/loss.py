"""From log-probs of tokens to the weighted loss of a batch: the one place where weights meet an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.movable import copied_to
from iwpo_fast.models import Policy
from iwpo_fast.models.reference import ReferenceLogps
from iwpo_fast.objectives import Mixture, Pair, Side
from iwpo_fast.objectives.registry import Constants
from iwpo_kernels import PreferenceOutput, PreferenceSums, TokenLogps, weighted_preference_loss


@dataclass(frozen=True)
class Split:
    """Pairs and their log-probs under the reference, if the objective has one."""

    pairs: Pairs
    reference: ReferenceLogps | None


class PreferenceLoss:
    """(1/D) Σ_i ω_i [(1 - ε_i) ℓ(pair_i) + ε_i ℓ(flipped pair_i)], D the denominator.

    A single objective with a closed form runs in the fused kernel, any other through autograd on tensors of [pairs]
    in float64.

    Raises:
        ValueError: the configuration names no objective that there is, or sets it wrongly.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self.mixture = Mixture.of(config)
        self._smoothing = config.label_smoothing

    def check_data(self, pairs: Pairs, source: str) -> None:
        """Raise ValueError if the data lack what the objective needs."""
        smoothing = self._smoothing if pairs.label_smoothing is None else pairs.label_smoothing
        self.mixture.check_columns(pairs.columns, smoothing, source)

    def batch(self, split: Split, rows: np.ndarray) -> FlatBatch:
        """The given pairs, with what the objective reads of the reference, on the host."""
        sums = tokens = None
        if split.reference is not None:
            sums = split.reference.sequences
            tokens = split.reference.tokens if self.mixture.needs("shared_tokens") else None
        return flat_batch(split.pairs, rows, sums, tokens)

    def token_logps(self, policy: Policy, batch: FlatBatch) -> Tensor | TokenLogps:
        """The policy's log-probs [N] of the batch, with statistics where the objective reads them."""
        return policy(batch, stats=self.mixture.needs("alignment"))

    def __call__(
        self,
        logps: Tensor | TokenLogps,
        batch: FlatBatch,
        denominator: float,
        constants: Mapping[str, Constants],
    ) -> PreferenceOutput:
        """Loss and metrics of a batch.

        Args:
            logps: as `token_logps` gives them.
            batch: the P pairs.
            denominator: what the sum over pairs is divided by.
            constants: [P] each, what the objective knows of the whole step.
        """
        smoothing = self._smoothing if batch.label_smoothing is None else batch.label_smoothing
        closed = self.mixture.closed_form(_data_of(self.mixture, batch))
        if closed is None:
            return self._through_autograd(logps, batch, denominator, constants, smoothing)
        assert isinstance(logps, Tensor)
        # An objective that ignores labels may use the kernel's smoothing for itself.
        arguments = {"label_smoothing": smoothing} if self.mixture.parts[0].objective.labels == "used" else {}
        return weighted_preference_loss(
            logps, batch.segments, batch.ref_logps, batch.weight, denominator=denominator, **(arguments | closed)
        )

    def _through_autograd(
        self,
        logps: Tensor | TokenLogps,
        batch: FlatBatch,
        denominator: float,
        constants: Mapping[str, Constants],
        smoothing: Tensor | float,
    ) -> PreferenceOutput:
        weight = batch.weight.double()
        pair = self._pair(logps, batch)
        losses = self.mixture(pair, constants, smoothing.double() if isinstance(smoothing, Tensor) else smoothing)
        weighted = torch.where(weight == 0, 0, weight * losses)
        pair = pair.detach()
        chosen, rejected = self.mixture.implicit_rewards(pair)
        terms = (
            torch.ones_like(weight),
            weight,
            weight.square(),
            weighted.detach(),
            losses.detach(),
            chosen,
            rejected,
            chosen - rejected,
            (chosen > rejected).double(),
            pair.chosen.logp,
            pair.rejected.logp,
        )
        tokens = logps if isinstance(logps, Tensor) else logps.logps
        return PreferenceOutput(
            loss=(weighted.sum() / denominator).to(tokens.dtype),
            sequence_logps=torch.cat([pair.chosen.logp, pair.rejected.logp]).to(tokens.dtype),
            sums=PreferenceSums(*torch.stack(terms).sum(1)),
        )

    def _pair(self, logps: Tensor | TokenLogps, batch: FlatBatch) -> Pair:
        """What the objective sees, in float64; a pair of weight 0 has no gradient, whatever its loss."""
        tokens = logps if isinstance(logps, Tensor) else logps.logps
        kept = torch.cat([batch.weight, batch.weight]) != 0

        def sums(values: Tensor) -> Tensor:
            totals = torch.segment_reduce(values.double(), "sum", offsets=batch.segments, initial=0.0)
            return totals.where(kept, totals.detach())

        alignment = None
        if not isinstance(logps, Tensor):
            alignment = sums(logps.logps.detach() - logps.sum_p2.log()) / _counts(batch)
        shared = ref_shared = None
        if batch.ref_token_logps is not None:
            inside = _within_the_shorter(batch)
            shared, ref_shared = sums(tokens * inside), sums(batch.ref_token_logps * inside)
        return _pair_of(
            self.mixture,
            sums(tokens),
            _counts(batch),
            ref_logp=None if batch.ref_logps is None else batch.ref_logps.double(),
            rewards=None if batch.scores is None else batch.scores.double(),
            alignment=alignment,
            shared_logp=shared,
            shared_ref_logp=ref_shared,
        )

    def rewards(self, logps: Tensor | TokenLogps, batch: FlatBatch) -> tuple[Tensor, Tensor]:
        """Implicit rewards of chosen and rejected completions, float64 [P] each."""
        return self.mixture.implicit_rewards(self._pair(logps, batch).detach())

    def sequence_logps(self, logps: Tensor | TokenLogps, batch: FlatBatch) -> Tensor:
        """float64 [P, 2], log-probs of chosen and rejected completions, without gradient."""
        tokens = logps if isinstance(logps, Tensor) else logps.logps
        totals = torch.segment_reduce(tokens.detach().double(), "sum", offsets=batch.segments, initial=0.0)
        return totals.reshape(2, -1).T

    def whole_step(self, split: Split, rows: np.ndarray, logps: Tensor) -> Pair:
        """All B pairs of a step as its statistics see them, given their log-probs [B, 2]."""

        def by_side(values: np.ndarray) -> Tensor:
            return copied_to(logps.device, np.concatenate([values[rows, 0], values[rows, 1]])).to(logps.dtype)

        pairs = split.pairs
        counts = np.stack([pairs.chosen.lengths, pairs.rejected.lengths], axis=1).clip(min=1)
        ref = None if split.reference is None else by_side(split.reference.sequences)
        scores = None if pairs.scores is None else by_side(pairs.scores)
        return _pair_of(self.mixture, logps.T.reshape(-1), by_side(counts), ref_logp=ref, rewards=scores)


def _pair_of(mixture: Mixture, logp: Tensor, tokens: Tensor, **optional: Tensor | None) -> Pair:
    """The two sides of attributes of `Side`, [2P] each."""
    values = {name: value for name, value in optional.items() if value is not None}
    values |= {"logp": logp, "tokens": tokens}
    halves = {name: value.chunk(2) for name, value in values.items()}
    chosen, rejected = (Side(divergence=mixture.divergence, **{n: h[i] for n, h in halves.items()}) for i in range(2))
    return Pair(chosen, rejected)


def _data_of(mixture: Mixture, batch: FlatBatch) -> Pair:
    """The batch without its log-probs, which closed forms do not read."""
    nothing = batch.weight.new_zeros(2 * batch.pairs)
    return _pair_of(mixture, nothing, _counts(batch), rewards=batch.scores)


def _counts(batch: FlatBatch) -> Tensor:
    return batch.segments.diff().clamp(min=1).double()


def _within_the_shorter(batch: FlatBatch) -> Tensor:
    """bool [N], tokens that are among the first min(|y_w|, |y_l|) of their completion."""
    lengths = batch.segments.diff()
    shorter = lengths.reshape(2, -1).amin(0).repeat(2)
    position = torch.arange(batch.labels.shape[0], device=lengths.device)
    start = torch.repeat_interleave(batch.segments[:-1], lengths, output_size=position.shape[0])
    limit = torch.repeat_interleave(shorter, lengths, output_size=position.shape[0])
    return position - start < limit
