"""Heads of one fold on top of a policy whose adapter moves the features that they read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.config import OptimConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.batch import FlatBatch, flat_batch, flat_responses
from iwpo_fast.data.order import micro_batches
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import Policy
from iwpo_fast.rewards.blocks import Float32s, Groups, Ints
from iwpo_fast.rewards.differentiable_heads import DifferentiableHeads
from iwpo_fast.rewards.features import mean_states, response_states
from iwpo_fast.rewards.pair_table import PairTable


@dataclass(frozen=True)
class HeadsOnPolicy:
    """m heads that give a value to every response of the pairs and their candidates.

    Attributes:
        pairs: P, tokenised.
        table: the same, over the C responses.
        cluster: [C] int64.
        others: features that are not hidden states, [C, d_g] each, which stay as the frozen model gave them.
        optim: how many tokens and pairs a batch may have.
    """

    policy: Policy
    heads: DifferentiableHeads
    pairs: Pairs
    table: PairTable
    cluster: Ints
    others: Groups
    optim: OptimConfig

    def batches(self, rows: Ints) -> list[Ints]:
        """Pairs [b] as micro-batches."""
        budget, cap = self.optim.tokens_per_batch, self.optim.max_pairs_per_batch
        cut = micro_batches(rows, self.policy.tokens(self.pairs), budget=budget, max_pairs=cap)[0]
        return [batch for batch in cut if len(batch)]

    def losses(self, rows: Ints, modelling: float) -> Tensor:
        """[b, m], of the heads on pairs [b], less `modelling` times the mean log-probs of the chosen responses."""
        chosen, rejected, likelihood = self._of_pairs(rows, modelled=modelling > 0)
        losses = self.heads.losses(chosen, rejected, self._pair_cluster[self._on_device(rows)])
        return losses if likelihood is None else losses - modelling * likelihood[:, None]

    @torch.no_grad()
    def values(self) -> Float32s:
        """[C, m, ...], of all responses."""
        values = np.empty((len(self.table.prompt_of), *self.heads.shape), dtype=np.float32)
        for batch in self.batches(np.arange(len(self.pairs))):
            chosen, rejected, _ = self._of_pairs(batch, modelled=False)
            values[self.table.chosen[batch]] = chosen.cpu().numpy()
            values[self.table.rejected[batch]] = rejected.cpu().numpy()
        for rows, batch_of_others in self._in_no_pair():
            values[rows] = self._alone(batch_of_others, rows).cpu().numpy()
        return values

    @torch.no_grad()
    def scores(self, values: Float32s) -> Float32s:
        """[P, m], of the pairs, from the values of all responses."""
        chosen, rejected = (self._on_device(values[rows]) for rows in (self.table.chosen, self.table.rejected))
        return np.asarray(self.heads.scores(chosen, rejected, self._pair_cluster).cpu().numpy())

    def rewards(self, values: Float32s) -> Float32s:
        """[C, m], of all responses from their values."""
        return self.heads.rewards(values, self.cluster, self.table.prompt_of)

    def _on_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.policy.device)

    @cached_property
    def _pair_cluster(self) -> Tensor:
        return self._on_device(self.cluster[self.table.chosen])

    @cached_property
    def _frozen(self) -> Float32s:
        return np.concatenate([np.empty((len(self.cluster), 0), np.float32), *self.others], axis=1)

    @cached_property
    def _pair_frozen(self) -> Tensor:
        return self._on_device(np.stack([self._frozen[self.table.chosen], self._frozen[self.table.rejected]]))

    def _of_pairs(self, rows: Ints, *, modelled: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values [b, m, ...] of both responses of pairs [b]; and mean log-probs [b] of the chosen ones if asked for."""
        on_host, likelihood = flat_batch(self.pairs, rows), None
        batch = on_host.to(self.policy.device)
        if modelled:
            states, likelihood = _states_and_likelihood(self.policy, batch, tokens=int(on_host.segments[len(rows)]))
        else:
            states = response_states(self.policy.hidden_states(batch), batch)
        features = torch.cat([states.unflatten(0, (2, len(rows))), self._pair_frozen[:, batch.rows]], -1)
        chosen, rejected = self.heads.values(features, self._pair_cluster[batch.rows])
        return chosen, rejected, likelihood

    def _alone(self, batch: FlatBatch, rows: Ints) -> Tensor:
        """[b, m, ...], of responses [b] without an opponent."""
        batch = batch.to(self.policy.device)
        states = response_states(self.policy.hidden_states(batch), batch)
        features = torch.cat([states, self._on_device(self._frozen[rows])], -1)
        return self.heads.values(features[None], self._on_device(self.cluster[rows]))[0]

    def _in_no_pair(self) -> Iterator[tuple[Ints, FlatBatch]]:
        """The responses that are in no pair, batch after batch."""
        table = self.table
        others = np.setdiff1d(np.arange(len(table.prompt_of)), np.concatenate([table.chosen, table.rejected]))
        if not len(others):
            return
        responses = Responses.of(self.pairs)
        tokens = responses.completions.lengths + responses.prompts.lengths[responses.prompt_of]
        for rows in micro_batches(others, tokens, budget=self.optim.tokens_per_batch)[0]:
            if len(rows):
                yield rows, flat_responses(responses, rows)


def _states_and_likelihood(policy: Policy, batch: FlatBatch, *, tokens: int) -> tuple[Tensor, Tensor]:
    """float32 [2P, d], what `response_states` gives, and float32 [P], mean log-probs of the chosen responses' tokens.

    Args:
        tokens: supervised ones of the chosen responses, over which alone the LM head runs.
    """
    of_chosen = {name: getattr(batch, name)[:tokens] for name in ("labels", "hidden_index", "completion_index")}
    logps, states = policy.with_states(replace(batch, **of_chosen), batch.completion_index)
    assert isinstance(logps, Tensor)
    segments = batch.segments[: batch.pairs + 1]
    sums = torch.segment_reduce(logps, "sum", offsets=segments, initial=0.0)
    return mean_states(states, batch), sums / segments.diff().clamp(min=1)
