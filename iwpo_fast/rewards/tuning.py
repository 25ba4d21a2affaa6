"""Rewards by heads on a fine-tuned model: a short training of an adapter for each fold, by the pairs of the others.

Each fold's heads, which learnt on features of the frozen model, stay as they are, and the adapter moves the features
under them: linear probing first, so that fine-tuning need not distort the features (Kumar et al., arXiv 2202.10054).
The unit of the rewards is then, as it is without tuning, the log-odds of the pairs that were learnt from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn.functional import softplus

from iwpo_fast.config import OptimConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.order import micro_batches, step_rows
from iwpo_fast.files import save_tensors
from iwpo_fast.models import Policy
from iwpo_fast.optimisation import fit, optimizer_steps
from iwpo_fast.rewards.cross_fit import FoldHeads, slope_of_heads
from iwpo_fast.rewards.features import response_states
from iwpo_fast.rewards.pair_table import PairTable


def tuned_rewards(
    heads: FoldHeads,
    pairs: Pairs,
    table: PairTable,
    optim: OptimConfig,
    new_policy: Callable[[], Policy],
    folder: Path,
    *,
    mean_logps: np.ndarray | None,
    centring: float,
    seed: int,
) -> np.ndarray:
    """float32 [C, members]: rewards of every response by a model that never saw its prompt.

    The adapter of a fold minimises, over the pairs that the fold's heads were shown and as often as they were,

        mean over heads of softplus(-(r_w - r_l)) + c (r_w + r_l)²,    r = (v + δ_z)ᵀ f(x, y)

    Args:
        heads: of every fold.
        pairs: P tokenised pairs.
        table: the same pairs as rows of C responses, each of which is in one of them.
        optim: optimiser and schedule of each training.
        new_policy: the model with an untrained adapter.
        mean_logps: float32 [C], of the frozen model, which the heads read beside its hidden states and go on reading;
            None if they do not.
        folder: where each finished fold is kept, for a call that goes on with a killed one.
        centring: c.
        seed: of data order and dropout.

    Raises:
        ValueError: a reward is not finite.
    """
    rewards = np.empty((len(heads.fold), heads.vectors.shape[-1]), dtype=np.float32)
    for fold in range(heads.vectors.shape[2]):
        place = folder / f"fold-{fold}.safetensors"
        responses = heads.fold == fold
        if not place.exists():
            model = _TunedModel.of(heads, fold, new_policy(), pairs, table, mean_logps)
            model.train(heads.weights[:, fold], optim, centring=centring, seed=seed)
            own = model.scores(heads.weights[:, fold], optim)[responses]
            del model  # before the next one is loaded
            save_tensors(place, {"rewards": torch.from_numpy(own)})
        rewards[responses] = load_file(place)["rewards"]
    return rewards


@dataclass(frozen=True)
class _TunedModel:
    """A policy with an adapter, and the m heads of one fold on top.

    Attributes:
        mean, scale: float32 [d], how features are standardised.
        vectors: float32 [G, d, m], v + δ_k; [1, d, m] without residuals.
        cluster: int64 [P], which of them each pair has.
        frozen: float32 [2, P, 0 or 1], features of the chosen and the rejected responses that tuning leaves alone.
    """

    fold: int
    policy: Policy
    mean: Tensor
    scale: Tensor
    vectors: Tensor
    cluster: Tensor
    frozen: Tensor
    pairs: Pairs
    table: PairTable

    @classmethod
    def of(
        cls,
        heads: FoldHeads,
        fold: int,
        policy: Policy,
        pairs: Pairs,
        table: PairTable,
        mean_logps: np.ndarray | None,
    ) -> _TunedModel:
        frozen = np.empty((len(table.prompt_of), 0), np.float32) if mean_logps is None else mean_logps[:, None]
        cluster = heads.cluster if len(heads.vectors) > 1 else np.zeros_like(heads.cluster)
        return cls(
            fold=fold,
            policy=policy,
            mean=torch.from_numpy(heads.standardise.mean).to(policy.device),
            scale=torch.from_numpy(heads.standardise.scale).to(policy.device),
            vectors=torch.from_numpy(heads.vectors[:, :, fold]).to(policy.device),
            cluster=torch.from_numpy(cluster[table.chosen]).to(policy.device),
            frozen=torch.from_numpy(np.stack([frozen[table.chosen], frozen[table.rejected]])).to(policy.device),
            pairs=pairs,
            table=table,
        )

    def rewards(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Rewards [rows, m] of the chosen and of the rejected responses."""
        batch = flat_batch(self.pairs, rows).to(self.policy.device)
        states = response_states(self.policy.hidden_states(batch), batch).unflatten(0, (2, len(rows)))
        features = (torch.cat([states, self.frozen[:, batch.rows]], -1) - self.mean) * self.scale
        chosen, rejected = torch.einsum("spd,pdm->spm", features, self.vectors[self.cluster[batch.rows]])
        return chosen, rejected

    def train(self, weights: np.ndarray, optim: OptimConfig, *, centring: float, seed: int) -> None:
        """Minimise the loss over the pairs with weights [P, m] that are not all 0."""
        seen = np.flatnonzero(weights.any(axis=1))

        def accumulate(step: int) -> None:
            torch.manual_seed(int(np.random.SeedSequence([seed, self.fold, step]).generate_state(1)[0]))
            rows = seen[step_rows(len(seen), step, pairs_per_step=optim.pairs_per_step, seed=seed)]
            for some in self._batches(rows, optim):
                chosen, rejected = self.rewards(some)
                losses = softplus(rejected - chosen) + centring * (chosen + rejected).square()
                shown = torch.from_numpy(weights[some]).to(losses)
                ((shown * losses).mean(1).sum() / len(rows)).backward()

        self.policy.train()
        _, steps = optimizer_steps(optim, len(seen))
        fit(self.policy.trainable_parameters(), optim, steps, accumulate, what=f"reward model {self.fold + 1}")

    @torch.no_grad()
    def scores(self, weights: np.ndarray, optim: OptimConfig) -> np.ndarray:
        """float32 [C, m], in log-odds of the pairs that the heads and the adapter learnt from."""
        chosen, rejected = self.table.chosen, self.table.rejected
        scores = np.empty((len(self.table.prompt_of), self.vectors.shape[-1]), dtype=np.float32)
        self.policy.eval()
        for some in self._batches(np.arange(len(self.pairs)), optim):
            for responses, rewards in zip((chosen[some], rejected[some]), self.rewards(some), strict=True):
                scores[responses] = rewards.cpu().numpy()
        if not np.isfinite(scores).all():
            raise ValueError("Some fine-tuned rewards are not finite: lower rewards.tuning.optim.lr.")
        return scores * slope_of_heads(scores[chosen] - scores[rejected], weights).astype(np.float32)

    def _batches(self, rows: np.ndarray, optim: OptimConfig) -> list[np.ndarray]:
        budget, cap = optim.tokens_per_batch, optim.max_pairs_per_batch
        dealt = micro_batches(rows, self.policy.tokens(self.pairs), budget=budget, max_pairs=cap)[0]
        return [some for some in dealt if len(some)]
