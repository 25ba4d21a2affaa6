"""Training of many policies at once: every arm of every world is a small network, and one step moves them all.

The policy of an arm is pi(y|x) = softmax over completions of (log pi_ref(y|x) + f(x, y)), f a network with one hidden
layer whose output starts at 0. Arms of a world share initialisation and the order of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.quality.exact.worlds import FEATURES, Prompts, World

HIDDEN = 16


@dataclass(frozen=True)
class TrainSettings:
    """The same for all arms.

    Attributes:
        beta: of every objective, as DPO's.
        steps: of Adam, at a constant learning rate.
        batch: pairs per step.
        checkpoints: points of the path at which a policy is evaluated, besides the start.
        penalty_prompts: prompts of a batch on which the forward KL of e-DPO and p-DPO is summed.
    """

    beta: float = 0.1
    steps: int = 200
    batch: int = 128
    lr: float = 5e-3
    checkpoints: int = 16
    penalty_prompts: int = 32

    def checkpoint_steps(self) -> list[int]:
        """Steps after which policies are evaluated, growing from 1/20 of all steps by a constant ratio."""
        return sorted({max(1, round(self.steps * 20 ** (i / (self.checkpoints - 1) - 1))) for i in range(self.checkpoints)})


@dataclass(frozen=True)
class ArmData:
    """What an arm trains on in one world.

    Attributes:
        weights: [n], multiplies the loss of each pair.
        smoothing: [n], probability that a pair's label is wrong.
        targets: [n, members], reward gaps for distillation instead of the labels; None trains on labels.
        forward_kl: factor of KL(pi_ref || pi).
        wpo: multiply by the policy's own probability of the pair (WPO), without gradient.
    """

    weights: Tensor
    smoothing: Tensor
    targets: Tensor | None = None
    forward_kl: float = 0.0
    wpo: bool = False


def train(
    worlds: Sequence[World], arms: Sequence[Sequence[ArmData]], settings: TrainSettings, seed: int
) -> Iterator[tuple[int, Policies]]:
    """Trains all arms of some worlds of equal size, and yields (steps done, policies) at every checkpoint.

    Args:
        worlds: W worlds.
        arms: [W][A]; arm a is of the same kind in all worlds.
        settings: the same for all.
        seed: of initialisation and of the order of pairs, which worlds and arms share.
    """
    data = _Columns(worlds, arms)
    policies = Policies(len(worlds), len(arms[0]), seed)
    optimiser = torch.optim.Adam(policies.parameters, lr=settings.lr, betas=(0.9, 0.99))
    wanted = set(settings.checkpoint_steps())
    for step, batch in enumerate(_batches(data.weights.shape[2], settings, seed), 1):
        loss = data.loss(policies, batch, settings)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in wanted:
            yield step, policies


class Policies:
    """W worlds times A arms of networks."""

    def __init__(self, worlds: int, arms: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        first = torch.randn(FEATURES, 1, HIDDEN, generator=random) * math.sqrt(2 / FEATURES)
        self.w1 = first.expand(worlds, FEATURES, arms, HIDDEN).clone().requires_grad_()
        self.b1 = torch.zeros(worlds, arms, HIDDEN, requires_grad=True)
        self.w2 = torch.zeros(worlds, arms, HIDDEN, requires_grad=True)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.w1, self.b1, self.w2]

    def scores(self, features: Tensor, arms: slice = slice(None)) -> Tensor:
        """f of completions, features [W, N, 48], for some arms: [W, A, N]."""
        w1, b1, w2 = self.w1[:, :, arms], self.b1[:, arms], self.w2[:, arms]
        count = w2.shape[1]
        hidden = torch.baddbmm(b1.flatten(1)[:, None], features, w1.flatten(2)).relu()  # [W, N, A * HIDDEN]
        return torch.einsum("wnah,wah->wan", hidden.unflatten(2, (count, HIDDEN)), w2)

    def log_probs(self, features: Tensor, ref_logps: Tensor, arms: slice = slice(None)) -> Tensor:
        """Of all completions of prompts, features [W, P, 32, 48] and ref_logps [W, P, 32]: [W, A, P, 32]."""
        scores = self.scores(features.flatten(1, 2), arms).unflatten(2, features.shape[1:3])
        return (ref_logps[:, None] + scores).log_softmax(3)


@dataclass(frozen=True)
class Evaluation:
    """Exact expectations over completions, mean over test prompts; each [W, A].

    Attributes:
        kl: KL(pi || pi_ref) in nats.
        gold: gain of gold reward over the reference.
        scaled_gold: the same with each task's gold reward divided by its scale.
        win_rate: probability that the policy's completion has the higher gold reward than the reference's, ties half.
    """

    kl: Tensor
    gold: Tensor
    scaled_gold: Tensor
    win_rate: Tensor


@torch.no_grad()
def evaluate(policies: Policies, worlds: Sequence[World]) -> Evaluation:
    """Sums over all completions of all test prompts."""
    per_world = [
        expectations(policies_of(policies, i).log_probs(w.test.features[None], w.test.ref_logps[None])[0], w)
        for i, w in enumerate(worlds)
    ]
    return Evaluation(*(torch.stack([getattr(e, name) for e in per_world]) for name in Evaluation.__annotations__))


def expectations(logps: Tensor, world: World) -> Evaluation:
    """Of policies with log-probs [A, P, 32] on the test prompts of a world, without the leading [W]."""
    test = world.test
    probs, ref = logps.exp(), test.ref_logps.exp()
    gold = ((probs - ref) * test.gold).sum(2)  # [A, P]
    kl = (probs * (logps - test.ref_logps)).sum(2)
    wins = ((probs * wins_against_reference(test)).sum(2)).mean(1)
    return Evaluation(kl.mean(1), gold.mean(1), (gold / world.scale[test.task]).mean(1), wins)


def wins_against_reference(prompts: Prompts) -> Tensor:
    """Probability that a completion beats one of the reference, ties half: [P, 32]."""
    higher = (prompts.gold[:, :, None] > prompts.gold[:, None]).float()
    tied = (prompts.gold[:, :, None] == prompts.gold[:, None]).float()
    return ((higher + tied / 2) * prompts.ref_logps.exp()[:, None]).sum(2)


def policies_of(policies: Policies, world: int) -> Policies:
    """The arms of one world."""
    one = Policies.__new__(Policies)
    one.w1, one.b1, one.w2 = (p[world : world + 1] for p in policies.parameters)
    return one


class _Columns:
    """The training data of all arms and worlds side by side."""

    def __init__(self, worlds: Sequence[World], arms: Sequence[Sequence[ArmData]]) -> None:
        kinds = arms[0]
        self.features = [w.train.features for w in worlds]
        self.ref_logps = [w.train.ref_logps for w in worlds]
        rows = torch.arange(len(worlds[0].train.task))
        self.pair = torch.stack([w.candidates[:, :2] for w in worlds])  # [W, n, 2]
        self.pair_features = torch.stack([w.train.features[rows[:, None], w.candidates[:, :2]] for w in worlds])
        self.weights = torch.stack([torch.stack([a.weights for a in of_world]) for of_world in arms])  # [W, A, n]
        self.smoothing = torch.stack([torch.stack([a.smoothing for a in of_world]) for of_world in arms])
        self.distilled = {
            i: torch.stack([of_world[i].targets for of_world in arms])  # type: ignore[arg-type]  # [W, n, members]
            for i, kind in enumerate(kinds)
            if kind.targets is not None
        }
        self.penalised = {i: kind.forward_kl for i, kind in enumerate(kinds) if kind.forward_kl}
        self.self_weighted = [i for i, kind in enumerate(kinds) if kind.wpo]

    def loss(self, policies: Policies, batch: Tensor, settings: TrainSettings) -> Tensor:
        """Sum over worlds and arms of the mean loss of the batch, so that each network gets its own gradient."""
        scores = policies.scores(self.pair_features[:, batch].flatten(1, 2)).unflatten(2, (len(batch), 2))
        margin = scores[..., 0] - scores[..., 1]  # [W, A, B]; the normaliser of a prompt cancels
        losses = pair_loss(margin, self.smoothing[:, :, batch], settings.beta)
        weights = self.weights[:, :, batch]
        for arm in self.self_weighted:
            weights = weights.index_copy(1, torch.tensor([arm]), self._own_weights(policies, arm, batch))
        total = losses * weights
        for arm, targets in self.distilled.items():
            distance = distillation_loss(margin[:, arm], targets[:, batch], settings.beta)
            total = total.index_copy(1, torch.tensor([arm]), distance[:, None])
        loss = total.mean(2).sum()
        few = batch[: settings.penalty_prompts]
        for arm, factor in self.penalised.items():
            ref_logps = self._of(self.ref_logps, few)
            logps = policies.log_probs(self._of(self.features, few), ref_logps, slice(arm, arm + 1))[:, 0]
            loss = loss + factor * (ref_logps.exp() * (ref_logps - logps)).sum(2).mean(1).sum()
        return loss

    @torch.no_grad()
    def _own_weights(self, policies: Policies, arm: int, batch: Tensor) -> Tensor:
        """WPO's weights [W, 1, B]: exp(sum over both completions of log pi(y) - log sum_v pi(v)^2), at most 1.

        A completion is one token here (Zhou et al. 2024, arXiv 2406.11827, with the clamp of its published code).
        """
        features, ref_logps = self._of(self.features, batch), self._of(self.ref_logps, batch)
        logps = policies.log_probs(features, ref_logps, slice(arm, arm + 1))[:, 0]
        aligned = logps - (2 * logps).logsumexp(2, keepdim=True)
        return aligned.gather(2, self.pair[:, batch]).sum(2).exp().clamp(max=1)[:, None]

    @staticmethod
    def _of(columns: list[Tensor], batch: Tensor) -> Tensor:
        return torch.stack([column[batch] for column in columns])


def pair_loss(margin: Tensor, smoothing: Tensor, beta: float) -> Tensor:
    """DPO with soft labels, (1 - e) l(h) + e l(-h), l(h) = -log sigmoid(beta h)."""
    return F.softplus(-beta * margin) + smoothing * beta * margin


def distillation_loss(margin: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Least squared distance of beta h [..., B] to the reward gaps [..., B, members].

    With one member d-DPO, with several e-DPO without its KL (arXiv 2405.19316, as understood here).
    """
    return (targets - beta * margin[..., None]).square().min(-1).values


def _batches(pairs: int, settings: TrainSettings, seed: int) -> Iterator[Tensor]:
    """Indices of the pairs of each step; the order is drawn anew when it is used up."""
    random = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(settings.steps):
        while len(order) < settings.batch:
            order = torch.cat([order, torch.randperm(pairs, generator=random)])
        yield order[: settings.batch]
        order = order[settings.batch :]
