"""Rewards by heads on a fine-tuned model: a short training of an adapter for each fold, by the pairs of the others.

Each fold's heads, which learnt on features of the frozen model, stay as they are, and the adapter moves the features
under them: linear probing first, so that fine-tuning need not distort the features (Kumar et al., arXiv 2202.10054).
As without tuning, the unit of the rewards is the log-odds of the pairs that were learnt from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from iwpo_fast.checksums import Damaged
from iwpo_fast.config import RewardConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.order import step_rows
from iwpo_fast.files import load_tensors, save_tensors
from iwpo_fast.finite import backward
from iwpo_fast.models import Policy
from iwpo_fast.optimisation import fit, optimizer_steps, seed_step
from iwpo_fast.rewards.cross_fit import FoldHeads, TunedRewards, slope_of_heads
from iwpo_fast.rewards.differentiable_heads import differentiable
from iwpo_fast.rewards.heads_on_policy import HeadsOnPolicy
from iwpo_fast.rewards.pair_table import PairFeatures
from iwpo_fast.rewards.preference_heads import PreferenceHeads
from iwpo_fast.rewards.scores import groups_for

logger = logging.getLogger(__name__)


def tuned_rewards(
    heads: FoldHeads,
    features: PairFeatures,
    pairs: Pairs,
    settings: RewardConfig,
    new_policy: Callable[[], Policy],
    folder: Path,
) -> TunedRewards:
    """Rewards of every response by a model that never saw its prompt; and scores of pairs, where heads compare.

    Args:
        heads: of every fold, learnt from these features.
        pairs: the P pairs, tokenised, with the candidates that the features are of.
        settings: with `tuning`.
        new_policy: the model with an untrained adapter.
        folder: where each finished fold is kept, so that a new call can continue a killed one.

    Raises:
        ValueError: a reward is not finite.
    """
    of_pair, members = heads.fold[features.table.chosen], heads.heads.members
    found = {"rewards": np.empty((len(heads.fold), members), dtype=np.float32)}
    rows_of = {"rewards": heads.fold, "scores": of_pair}
    if isinstance(heads.heads, PreferenceHeads):
        found["scores"] = np.empty((len(of_pair), members), dtype=np.float32)
    for fold in range(heads.heads.folds):
        path = folder / f"fold-{fold}.safetensors"
        of_fold = _kept(path)
        if of_fold is None:
            every = _tuned_fold(heads, fold, features, pairs, settings, new_policy())._asdict()
            of_fold = {name: every[name][rows_of[name] == fold] for name in found}
            save_tensors(path, {name: torch.from_numpy(values) for name, values in of_fold.items()})
        for name, values in found.items():
            values[rows_of[name] == fold] = of_fold[name]
    return TunedRewards(**found)


def _kept(path: Path) -> dict[str, np.ndarray] | None:
    """What a finished fold left; None if it is not finished, or that is damaged."""
    if not path.exists():
        return None
    try:
        return load_tensors(path)
    except Damaged:
        logger.warning("The rewards in %s are damaged: tuning this fold again.", path)
        return None


def _tuned_fold(
    heads: FoldHeads, fold: int, features: PairFeatures, pairs: Pairs, settings: RewardConfig, policy: Policy
) -> TunedRewards:
    """Of all responses and pairs, in log-odds of the pairs that the heads of a fold and its adapter learnt from.

    The adapter minimises, over the pairs that the heads were shown and as often as they were, the mean of what each
    head was trained by: for one that gives rewards

        softplus(-(r_w - r_l)) + c (r_w + r_l)²

    and for one that embeds responses softplus(-s(y_w > y_l)); and, where `language_modelling` says so, that many times
    the negative mean log-prob of the chosen response.
    """
    assert settings.tuning is not None
    optim, modelling, weights = settings.tuning.optim, settings.tuning.language_modelling, heads.weights[:, fold]
    on_policy = HeadsOnPolicy(
        policy,
        differentiable(heads.heads, fold, settings.centring, policy.device),
        pairs,
        features.table,
        heads.cluster,
        others=groups_for(features, settings)[1:],
        optim=optim,
    )
    shown = np.flatnonzero(weights.any(axis=1))

    def accumulate(step: int) -> None:
        seed_step(heads.seed, fold, step)
        rows = shown[step_rows(len(shown), step, pairs_per_step=optim.pairs_per_step, seed=heads.seed)]
        for batch in on_policy.batches(rows):
            losses = on_policy.losses(batch, modelling)
            times = torch.from_numpy(weights[batch]).to(losses)
            backward((times * losses).mean(1).sum() / len(rows))

    policy.train()
    _, steps = optimizer_steps(optim, len(shown))
    what, rate = f"reward model {fold + 1}", "rewards.tuning.optim.lr"
    fit(policy.trainable_parameters(), optim, steps, accumulate, what=what, rate=rate)
    policy.eval()
    return _in_log_odds(on_policy, weights)


def _in_log_odds(on_policy: HeadsOnPolicy, weights: np.ndarray) -> TunedRewards:
    """By heads that were shown the pairs as often as `weights` [P, m] say."""
    values = on_policy.values()
    if not np.isfinite(values).all():
        raise ValueError("Some fine-tuned rewards are not finite: lower rewards.tuning.optim.lr.")
    scores = on_policy.scores(values)
    slope = slope_of_heads(scores, weights).astype(np.float32)
    return TunedRewards(on_policy.rewards(values) * slope, scores * slope)
