"""From log-probs of tokens to the weighted loss of a batch, by the fused kernel or through autograd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from iwpo_fast.config import DataConfig, ModelConfig, ObjectiveConfig
from iwpo_fast.data import Pairs, Rows
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.rows import first_single
from iwpo_fast.data.tensor_dataclass import copied_to
from iwpo_fast.models import Policy
from iwpo_fast.models.reward_head import head_to_train
from iwpo_fast.objectives import Mixture, Pair, Side
from iwpo_fast.objectives.pair import Between
from iwpo_fast.objectives.registry import Constants, Reads
from iwpo_fast.training.held_out_margins import Margins
from iwpo_kernels import PreferenceOutput, PreferenceSums, TokenStatistics, weighted_preference_loss
from iwpo_kernels.weighted_preference import TIE, weighted


class TokenScores(NamedTuple):
    """What an objective reads of a policy: log-probs of the N tokens of a batch, and more of them if it needs that.

    Attributes:
        logps: [N].
        sum_p2: [N], Σ_v p_v².
        own_rewards: [2P], of the completions, chosen ones first, by the reward head of the policy.
    """

    logps: Tensor
    sum_p2: Tensor | None = None
    own_rewards: Tensor | None = None


class PreferenceLoss:
    """(1/D) Σ_i ω_i [(1 - ε_i) ℓ(pair_i) + ε_i ℓ(flipped pair_i)], D the denominator.

    A single objective with a closed form runs in the fused kernel, any other through autograd on tensors of [pairs]
    in float64.

    Raises:
        ValueError: the configuration names no objective that there is, or sets it wrongly.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self.mixture = Mixture.of(config)
        self._fused = self.mixture.fused
        self._smoothing = config.label_smoothing

    def check_rows(self, rows: Rows | None) -> None:
        """Raise ValueError if rows have one completion, and the objective takes pairs."""
        if rows is None or rows.present is None:
            return
        self.mixture.check_paired(rows.where(first_single(rows.present)))
        if self.mixture.takes_samples:
            self._check_samples(rows)

    def check_data(self, pairs: Pairs, rows: Rows) -> None:
        """Raise ValueError if `pairs`, which were read from `rows`, lack what the objective needs."""
        columns, numbers = pairs.columns, rows.numbers[pairs.row]
        if pairs.present is not None and self.mixture.takes_samples:
            compared = pairs.present.all(axis=1)
            columns, numbers = {name: values[compared] for name, values in columns.items()}, numbers[compared]
        smoothing = self._smoothing if pairs.label_smoothing is None else pairs.label_smoothing
        self.mixture.check_columns(columns, smoothing, rows.source, numbers)

    def _check_samples(self, rows: Rows) -> None:
        """Raise ValueError unless rows of one completion can be samples of the reference, beside pairs."""
        assert rows.present is not None
        name, (chosen, rejected) = self.mixture.objectives[0].name, rows.present.T
        if not chosen.all():
            raise ValueError(
                f"{rows.where(int((~chosen).argmax()))} has one completion, which the objective {name} takes for a "
                "sample of the reference, and its label is false: leave such rows out, or choose another objective."
            )
        if not rejected.any():
            raise ValueError(
                f"All rows of {rows.source} have one completion, which the objective {name} takes for samples of the "
                "reference: add pairs, or choose another objective."
            )

    def equip(self, policy: Policy, model: ModelConfig, data: DataConfig) -> None:
        """Give the policy the reward head that the objective reads, if it reads one.

        Raises:
            ValueError: the model brings a head that cannot be gone on with.
        """
        if self.mixture.reads(Reads.OWN_REWARD) and policy.reward_head is None:
            head = head_to_train(model, data, policy.head.linear.weight.shape[1])
            policy.reward_head = head.to(policy.device)

    def token_logps(self, policy: Policy, batch: FlatBatch) -> TokenScores:
        """What the objective reads of the policy, which has been equipped for it."""
        statistics, rewards = self.mixture.reads(Reads.ALIGNMENT), None
        if self.mixture.reads(Reads.OWN_REWARD):
            found, rewards = policy.with_rewards(batch, statistics=statistics)
        else:
            found = policy(batch, statistics=True) if statistics else policy(batch)
        if isinstance(found, TokenStatistics):
            return TokenScores(found.logps, found.sum_p2, rewards)
        return TokenScores(found, own_rewards=rewards)

    def __call__(
        self, tokens: TokenScores, batch: FlatBatch, denominator: float, constants: Mapping[str, Constants]
    ) -> PreferenceOutput:
        """Loss and metrics of a batch.

        Args:
            tokens: as `token_logps` gives them.
            batch: the P pairs.
            denominator: what the sum over pairs is divided by.
            constants: [P] each, what the objective knows of the whole step.
        """
        smoothing = self._smoothing if batch.label_smoothing is None else batch.label_smoothing
        if self._fused is None:
            return self._through_autograd(tokens, batch, denominator, constants, smoothing)
        form = self._fused(None if batch.scores is None else batch.scores.chunk(2))
        form = {"label_smoothing": smoothing} | form  # a form that reads no labels says so by a smoothing of its own
        return weighted_preference_loss(
            tokens.logps, batch.segments, batch.ref_logps, batch.weight, denominator=denominator, **form
        )

    def _through_autograd(
        self,
        tokens: TokenScores,
        batch: FlatBatch,
        denominator: float,
        constants: Mapping[str, Constants],
        smoothing: Tensor | float,
    ) -> PreferenceOutput:
        weight, dtype = batch.weight.double(), tokens.logps.dtype
        pair = self._pair(tokens, batch)
        losses = self.mixture(pair, constants, smoothing.double() if isinstance(smoothing, Tensor) else smoothing)
        total = weighted(losses, weight).sum()
        pair = pair.detach()
        logps = (pair.chosen.logp, pair.rejected.logp)
        return PreferenceOutput(
            loss=(total / denominator).to(dtype),
            sequence_logps=torch.cat(logps).to(dtype),
            sums=self._sums(pair, weight, losses.detach()),
        )

    def _sums(self, pair: Pair, weight: Tensor, losses: Tensor) -> PreferenceSums:
        """What metrics are made of; samples of the reference count in losses alone."""
        rewards, logps = self.mixture.implicit_rewards(pair), (pair.chosen.logp, pair.rejected.logp)
        rounding = TIE * self.mixture.size_of_rewards(pair)
        if not self.mixture.takes_samples or pair.compared is None:
            return PreferenceSums.of(weight, losses, *rewards, *logps, rounding)
        counts = pair.compared.double()
        chosen, rejected, chosen_logps, rejected_logps = (values * counts for values in (*rewards, *logps))
        sums = PreferenceSums.of(weight * counts, losses, chosen, rejected, chosen_logps, rejected_logps, rounding)
        ties = (1 - counts).sum() / 2
        in_losses = weighted(losses, weight).sum()
        return sums._replace(pairs=counts.sum(), correct=sums.correct - ties, weighted_loss=in_losses)

    def _pair(self, tokens: TokenScores, batch: FlatBatch) -> Pair:
        """What the objective sees, in float64; a pair of weight 0 has no gradient, whatever its loss."""
        logps, count = _sums(tokens.logps, batch, batch.completions), 2 * batch.pairs
        alignment = None
        if tokens.sum_p2 is not None:
            of_tokens = tokens.logps.detach() - tokens.sum_p2.log()
            alignment = (_sums(of_tokens, batch, batch.completions) / _counts(batch))[:count]
        shared = ref_shared = None
        if batch.ref_token_logps is not None:
            inside = _within_the_shorter(batch, len(batch.ref_token_logps))
            shared = _sums(tokens.logps[: len(inside)] * inside, batch, count)
            ref_shared = _sums(batch.ref_token_logps * inside, batch, count)
        pair = _pair_of(
            self.mixture,
            logps[:count],
            _counts(batch)[:count],
            ref_logp=None if batch.ref_logps is None else batch.ref_logps.double(),
            rewards=None if batch.scores is None else batch.scores.double(),
            alignment=alignment,
            shared_logp=shared,
            shared_ref_logp=ref_shared,
            own_reward=None if tokens.own_rewards is None else _of_kept(tokens.own_rewards.double()[:count], batch),
            present=batch.present,
        )
        if batch.between is None:
            return pair
        known = None if batch.ref_between is None else batch.ref_between.double()
        scores = None if batch.scores_between is None else batch.scores_between.double()
        between = Between(logps[count:], batch.between, batch.most_between, known, scores, self.mixture.divergence)
        return replace(pair, between=between)

    def log_likelihood(self, tokens: TokenScores, batch: FlatBatch) -> Tensor:
        """float64 [P], without gradient, of what was preferred by implicit rewards r.

        log σ(r_w - r_l) of a pair; of the order of more, where the objective reads one, Plackett and Luce's.
        """
        if self.mixture.reads(Reads.CANDIDATES):
            return -self.mixture(self._pair(tokens, batch).detach(), {})
        return logsigmoid(self.margins(tokens, batch).margin)

    def margins(self, tokens: TokenScores, batch: FlatBatch) -> Margins:
        """Implicit reward of each chosen minus that of the rejected completion, and the sizes of both."""
        pair = self._pair(tokens, batch).detach()
        chosen, rejected = self.mixture.implicit_rewards(pair)
        return Margins(chosen - rejected, self.mixture.size_of_rewards(pair))

    def sequence_logps(self, tokens: TokenScores, batch: FlatBatch) -> Tensor:
        """float64 [P, 2], log-probs of chosen and rejected completions, without gradient."""
        totals = torch.segment_reduce(tokens.logps.detach().double(), "sum", offsets=batch.segments, initial=0.0)
        return totals[: 2 * batch.pairs].reshape(2, -1).T

    def step_pair(self, pairs: Pairs, rows: np.ndarray, logps: Tensor) -> Pair:
        """All B pairs of a step as its statistics see them, given their log-probs [B, 2]."""

        def by_side(values: np.ndarray) -> Tensor:
            return copied_to(logps.device, np.concatenate([values[rows, 0], values[rows, 1]])).to(logps.dtype)

        counts = pairs.tokens_trained.clip(min=1)
        ref = None if pairs.ref_logps is None else by_side(pairs.ref_logps)
        scores = None if pairs.scores is None else by_side(pairs.scores)
        there = None if pairs.present is None else by_side(pairs.present).bool()
        return _pair_of(self.mixture, logps.T.reshape(-1), by_side(counts), ref_logp=ref, rewards=scores, present=there)


def _pair_of(mixture: Mixture, logp: Tensor, tokens: Tensor, **optional: Tensor | None) -> Pair:
    """The two sides of attributes of `Side`, [2P] each."""
    values = {name: value for name, value in optional.items() if value is not None}
    values |= {"logp": logp, "tokens": tokens}
    halves = {name: value.chunk(2) for name, value in values.items()}
    chosen, rejected = (Side(divergence=mixture.divergence, **{n: h[i] for n, h in halves.items()}) for i in range(2))
    return Pair(chosen, rejected)


def _counts(batch: FlatBatch) -> Tensor:
    return batch.segments.diff().clamp(min=1).double()


def _sums(values: Tensor, batch: FlatBatch, completions: int) -> Tensor:
    """float64 [completions], sums over the tokens of the first completions; no gradient where the weight is 0."""
    offsets = batch.segments[: completions + 1]
    return _of_kept(torch.segment_reduce(values.double(), "sum", offsets=offsets, initial=0.0), batch)


def _of_kept(values: Tensor, batch: FlatBatch) -> Tensor:
    """Of the first completions, without gradient where the weight is 0."""
    kept = batch.by_completion(batch.weight)[: len(values)] != 0
    return values.where(kept, values.detach())


def _within_the_shorter(batch: FlatBatch, tokens: int) -> Tensor:
    """bool [tokens], those of the pairs that are among the first min(|y_w|, |y_l|) of their completion."""
    segments = batch.segments[: 2 * batch.pairs + 1]
    lengths = segments.diff()
    shorter = lengths.reshape(2, -1).amin(0).repeat(2)
    position = torch.arange(tokens, device=lengths.device)
    start = torch.repeat_interleave(segments[:-1], lengths, output_size=tokens)
    limit = torch.repeat_interleave(shorter, lengths, output_size=tokens)
    return position - start < limit
