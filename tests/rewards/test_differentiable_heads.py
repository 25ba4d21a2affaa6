"""Heads as functions of features that a gradient flows through: the same numbers as on the host, and true gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_preference_heads import made_up

from iwpo_fast.rewards.differentiable_heads import DifferentiableHeads, differentiable
from iwpo_fast.rewards.head_kinds import Heads
from iwpo_fast.rewards.network_heads import NetworkHeads
from iwpo_fast.rewards.preference_heads import PreferenceHeads

CPU = torch.device("cpu")
CENTRING = 0.3
KINDS = ["linear", "shared", "mlp", "gpm"]


def heads_of(kind: str) -> tuple[Heads, np.ndarray, np.ndarray, np.ndarray]:
    """Random heads, two of each of two folds, with slopes of their own; nine features, clusters and prompts."""
    preferences, features, cluster, prompt = made_up()
    linear = replace(preferences.linear, slope=preferences.slope[::-1].copy())
    draw = np.random.default_rng(1)

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype(np.float32)

    heads: dict[str, Heads] = {
        "linear": linear,
        "shared": replace(linear, vectors=linear.vectors[:1]),
        "mlp": NetworkHeads(
            linear, normal(5, 4), normal(4, 4, 3), normal(2, 4, 3), normal(4, 3), normal(2, 2), preferences.slope
        ),
        "gpm": replace(preferences, linear=linear),
    }
    return heads[kind], features, cluster, prompt


def values_of(heads: DifferentiableHeads, features: np.ndarray, cluster: np.ndarray) -> torch.Tensor:
    """[C, m, ...], of responses one beside the other."""
    return heads.values(torch.from_numpy(features)[None], torch.from_numpy(cluster))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_are_those_of_the_heads_of_the_fold_but_for_their_slope(kind) -> None:
    heads, features, cluster, prompt = heads_of(kind)
    for fold in range(2):
        of_fold = differentiable(heads, fold, CENTRING, CPU)
        values = values_of(of_fold, features, cluster)
        assert values.shape == (9, *of_fold.shape)
        found = of_fold.rewards(values.numpy(), cluster, prompt) * heads.slope[fold]
        expected = np.concatenate([part for _, part in heads.rewards((features,), cluster, prompt)])[:, fold]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_pairs_are_those_of_the_heads_and_responses_may_come_two_at_once(kind) -> None:
    heads, features, cluster, prompt = heads_of(kind)
    first, second = np.nonzero(prompt[:, None] == prompt)
    if isinstance(heads, PreferenceHeads):
        expected = heads.scores((features,), cluster, first, second)
    else:
        rewards = np.concatenate([part for _, part in heads.rewards((features,), cluster, prompt)])
        expected = rewards[first] - rewards[second]
    both, of_pair = torch.from_numpy(np.stack([features[first], features[second]])), torch.from_numpy(cluster[first])
    for fold in range(2):
        of_fold = differentiable(heads, fold, CENTRING, CPU)
        found = of_fold.scores(*of_fold.values(both, of_pair), of_pair).numpy() * heads.slope[fold]
        np.testing.assert_allclose(found, expected[:, fold], rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def naive_score(heads: PreferenceHeads, head: int, z: int, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """v(y)ᵀ D R D v(y') with matrices, float64, of two features [d] in cluster z."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).double()

    linear, planes = heads.linear, heads.gate.shape[-1]
    fold, member = divmod(head, heads.members)

    def embedded(features: torch.Tensor) -> torch.Tensor:
        inputs = (features - tensor(linear.mean)) * tensor(linear.scale)
        reward = inputs @ tensor(linear.vectors[z, :, fold, member]) * linear.slope[fold, member]
        v = inputs @ tensor(heads.projection) @ tensor(heads.vectors[:, head]) + tensor(heads.bias[z, head])
        return v + torch.eye(2 * planes, dtype=torch.float64)[0] * float(heads.share[fold, member]) * reward

    turn = torch.kron(torch.eye(planes), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])).double()
    stretch = (planes * tensor(heads.gate[z, head]).softmax(0)).repeat_interleave(2).diag()
    return embedded(first) @ stretch @ turn @ stretch @ embedded(second)


def test_the_gradient_of_the_loss_of_a_pair_is_that_of_the_form_with_matrices() -> None:
    heads, features, cluster, _ = heads_of("gpm")
    assert isinstance(heads, PreferenceHeads)
    pairs = [(0, 1), (2, 0), (4, 5)]
    sides = np.array([[features[i] for i, _ in pairs], [features[j] for _, j in pairs]])
    of_pair = torch.from_numpy(cluster[[i for i, _ in pairs]])
    given = torch.from_numpy(sides).requires_grad_()
    of_fold = differentiable(heads, 1, CENTRING, CPU)
    of_fold.losses(*of_fold.values(given, of_pair), of_pair).sum().backward()

    naive = torch.from_numpy(sides).double().requires_grad_()
    losses = [
        -torch.nn.functional.logsigmoid(naive_score(heads, head, int(of_pair[p]), naive[0, p], naive[1, p]))
        for p in range(len(pairs))
        for head in (2, 3)
    ]
    torch.stack(losses).sum().backward()
    assert given.grad is not None and naive.grad is not None and naive.grad.abs().max() > 0.1
    np.testing.assert_allclose(given.grad, naive.grad, rtol=1e-4, atol=1e-5 * float(naive.grad.abs().max()))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_heads_that_give_rewards_hold_their_level(kind) -> None:
    chosen, rejected = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    found = differentiable(heads_of(kind)[0], 0, CENTRING, CPU).losses(chosen, rejected, torch.zeros(1, dtype=int))
    torch.testing.assert_close(found, torch.log1p((rejected - chosen).exp()) + CENTRING * (chosen + rejected) ** 2)
