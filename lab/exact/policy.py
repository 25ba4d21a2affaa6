"""Training of many policies at once: every arm of every world is a small network, and one step moves them all.

The policy of an arm is pi(y|x) = softmax over completions of (log pi_ref(y|x) + f(x, y)), f a head on the features of
completions, or a network on them, that starts at 0. Arms of a world share initialisation, order of pairs and steps.

A pair's loss is a function of beta * f alone, so that training at another beta gives the same beta * f, up to the scale
of the optimiser: beta only says how far a policy goes in the direction that it has learned. Policies are compared at
equal KL by the factor of f that gives it, which is exact and does not depend on how fast an arm learns.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iwpo_fast.objectives import Pair, Side
from lab.exact.doubly_robust import DoublyRobust, loss_of
from lab.exact.worlds import FEATURES, World

TOKENS = 256
"""Of a completion of length 0, for whatever counts them; about those of answers to instructions."""


@dataclass(frozen=True)
class TrainSettings:
    """The same for all arms; chosen by the gold reward of DPO alone, at equal KL, in worlds outside the table.

    Attributes:
        beta: of every objective.
        hidden: units of the policy's own layer; 0 makes it linear in the features, as the reward models are.
        steps: of Adam.
        batch: pairs per step.
        lr, linear_lr: at the start, with and without a layer of its own, from where it falls linearly to 0.
        penalty_prompts: prompts of a batch on which the forward KL of e-DPO and p-DPO is summed.
    """

    beta: float = 0.3
    hidden: int = 16
    steps: int = 200
    batch: int = 128
    lr: float = 1e-2
    linear_lr: float = 5e-2
    penalty_prompts: int = 32


@dataclass(frozen=True)
class ArmData:
    """What an arm trains on in one world.

    Attributes:
        weights: [n], multiplies the loss of each pair.
        smoothing: [n], probability that a pair's label is wrong.
        targets: [n, members], reward gaps for distillation instead of the labels; None trains on labels.
        forward_kl: factor of KL(pi_ref || pi).
        kl_completions: [n, K], completions of each prompt whose mean -log(pi / pi_ref) stands for it; None is exact.
        wpo: multiply by the policy's own probability of the pair (WPO), without gradient.
        objective: an objective of the library in the place of DPO, at the common beta; labels are not smoothed then. It
            sees log-probs without the normaliser of a prompt, and so may read their differences alone.
        counts_tokens: the objective sees `TOKENS` exp(length / 2) tokens of a completion, and not one.
        scores: [n, 2], or [n, 2, k] by k reward models, of chosen and rejected completions, for `objective`.
        doubly_robust: DRPO in the place of DPO, at a beta of its own.
        prompts, completions: [n] and [n, 2], the pairs; None for those of the world, one for each prompt.
    """

    weights: Tensor
    smoothing: Tensor
    targets: Tensor | None = None
    forward_kl: float = 0.0
    kl_completions: Tensor | None = None
    wpo: bool = False
    objective: Callable[[Pair, float], Tensor] | None = None
    counts_tokens: bool = False
    scores: Tensor | None = None
    doubly_robust: DoublyRobust | None = None
    prompts: Tensor | None = None
    completions: Tensor | None = None


def train(worlds: Sequence[World], arms: Sequence[Sequence[ArmData]], settings: TrainSettings, seed: int) -> Policies:
    """Train all arms of some worlds of equal size.

    Args:
        worlds: W worlds.
        arms: [W][A]; arm a is of the same kind in all worlds, and all have equal pairs.
        settings: the same for all.
        seed: of initialisation and of the order of pairs, which worlds and arms share.
    """
    data = _Columns(worlds, arms)
    policies = Policies(len(worlds), len(arms[0]), settings.hidden, seed)
    lr = settings.lr if settings.hidden else settings.linear_lr
    optimiser = torch.optim.Adam(policies.parameters, lr=lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, settings.steps)
    for batch in _batches(data.pairs, settings, seed):
        loss = data.loss(policies, batch, settings)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return policies


class Policies:
    """W worlds times A arms of scores f, linear in the features or with a hidden layer of rectified units."""

    def __init__(self, worlds: int, arms: int, hidden: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        first = torch.randn(FEATURES, 1, hidden, generator=random) * math.sqrt(2 / FEATURES)
        self.parameters = (
            [
                first.expand(worlds, FEATURES, arms, hidden).clone(),
                torch.zeros(worlds, 1, arms, hidden),
                torch.zeros(worlds, arms, hidden),
            ]
            if hidden
            else [torch.zeros(worlds, FEATURES, arms)]
        )
        for parameter in self.parameters:
            parameter.requires_grad_()

    def of_world(self, world: int) -> Policies:
        """The arms of one world, as a single world."""
        one = copy.copy(self)
        one.parameters = [parameter[world : world + 1] for parameter in self.parameters]
        return one

    def scores(self, features: Tensor, arms: slice = slice(None)) -> Tensor:
        """f of completions, features [W, N, 48], for some arms: [W, A, N]."""
        first = self.parameters[0][:, :, arms]
        if len(self.parameters) == 1:
            return torch.bmm(features, first).transpose(1, 2)
        bias, last = self.parameters[1][:, :, arms], self.parameters[2][:, arms]
        hidden = torch.baddbmm(bias.flatten(2), features, first.flatten(2)).relu().unflatten(2, last.shape[1:])
        return torch.einsum("wnah,wah->wan", hidden, last)

    def log_probs(self, features: Tensor, ref_logps: Tensor, arms: slice = slice(None)) -> Tensor:
        """Of all completions of prompts, features [W, P, 32, 48] and ref_logps [W, P, 32]: [W, A, P, 32]."""
        scores = self.scores(features.flatten(1, 2), arms).unflatten(2, features.shape[1:3])
        return (ref_logps[:, None] + scores).log_softmax(3)


class _Columns:
    """The training data of all arms and worlds side by side."""

    def __init__(self, worlds: Sequence[World], arms: Sequence[Sequence[ArmData]]) -> None:
        kinds = arms[0]
        self.features = [w.train.features for w in worlds]
        self.ref_logps = [w.train.ref_logps for w in worlds]
        pairs = [_pairs(w, of_world[0]) for w, of_world in zip(worlds, arms, strict=True)]
        self.pair = torch.stack([completions for _, completions in pairs])  # [W, n, 2]
        self.pairs = self.pair.shape[1]
        self.pair_features = torch.stack(
            [w.train.features[prompts[:, None], both] for w, (prompts, both) in zip(worlds, pairs, strict=True)]
        )
        self.weights = torch.stack([torch.stack([a.weights for a in of_world]) for of_world in arms])  # [W, A, n]
        self.smoothing = torch.stack([torch.stack([a.smoothing for a in of_world]) for of_world in arms])
        targets = ([a.targets for a in of_arm if a.targets is not None] for of_arm in zip(*arms, strict=True))
        self.distilled = {i: torch.stack(gaps) for i, gaps in enumerate(targets) if gaps}  # [W, n, members]
        self.penalised = {i: kind.forward_kl for i, kind in enumerate(kinds) if kind.forward_kl}
        said = {i: [of_world[i].kl_completions for of_world in arms] for i in self.penalised}
        self.kl_completions = {i: torch.stack(of) for i, of in said.items() if all(one is not None for one in of)}
        self.objectives = {i: kind.objective for i, kind in enumerate(kinds) if kind.objective is not None}
        self.scores = {i: torch.stack([_scores(of_world[i]) for of_world in arms]) for i in self.objectives}
        self.counting = {i for i in self.objectives if kinds[i].counts_tokens}
        self.pair_ref_logps, lengths = (
            torch.stack([c[prompts[:, None], both] for c, (prompts, both) in zip(columns, pairs, strict=True)])
            for columns in (self.ref_logps, [w.train.length for w in worlds])
        )  # [W, n, 2]
        self.pair_tokens = tokens_of(lengths)
        self.doubly_robust = {i: kind.doubly_robust for i, kind in enumerate(kinds) if kind.doubly_robust is not None}
        of_arms = ([a.doubly_robust for a in of_arm if a.doubly_robust] for of_arm in zip(*arms, strict=True))
        self.judged = {i: torch.stack([one.rewards for one in of]) for i, of in enumerate(of_arms) if of}  # [W, n, 32]
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
            total = total.index_copy(1, torch.tensor([arm]), (weights[:, arm] * distance)[:, None])
        for arm in self.objectives:
            own = self._own_losses(arm, scores[:, arm], batch, settings.beta)
            total = total.index_copy(1, torch.tensor([arm]), (weights[:, arm] * own)[:, None])
        for arm in self.doubly_robust:
            total = total.index_copy(1, torch.tensor([arm]), self._doubly_robust(policies, arm, batch)[:, None])
        loss = total.mean(2).sum()
        few = batch[: settings.penalty_prompts]
        for arm, factor in self.penalised.items():
            ref_logps = self._of(self.ref_logps, few)
            logps = policies.log_probs(self._of(self.features, few), ref_logps, slice(arm, arm + 1))[:, 0]
            loss = loss + factor * self._forward_kl(arm, few, ref_logps, logps).mean(1).sum()
        return loss

    def _forward_kl(self, arm: int, few: Tensor, ref_logps: Tensor, logps: Tensor) -> Tensor:
        """[W, P], of log-probs [W, P, 32] of the prompts `few`."""
        apart = ref_logps - logps
        if arm in self.kl_completions:
            return apart.gather(2, self.kl_completions[arm][:, few]).mean(2)
        return (ref_logps.exp() * apart).sum(2)

    def _own_losses(self, arm: int, scores: Tensor, batch: Tensor, beta: float) -> Tensor:
        """[W, B], by the objective of an arm, from its scores f [W, B, 2]."""
        ref, rewards = self.pair_ref_logps[:, batch], self.scores[arm][:, batch]
        tokens = self.pair_tokens[:, batch] if arm in self.counting else torch.ones_like(ref)

        def side(i: int) -> Side:
            logp, count, of_ref = (part[..., i].flatten() for part in (ref + scores, tokens, ref))
            reward = rewards[:, :, i].flatten(0, 1)
            return Side(logp, count, of_ref, reward)

        return self.objectives[arm](Pair(side(0), side(1)), beta).unflatten(0, scores.shape[:2])

    def _doubly_robust(self, policies: Policies, arm: int, batch: Tensor) -> Tensor:
        """[W, B], of an arm that reads its policy of all completions."""
        ref_logps = self._of(self.ref_logps, batch)
        logps = policies.log_probs(self._of(self.features, batch), ref_logps, slice(arm, arm + 1))[:, 0]
        asked, rewards = self.doubly_robust[arm], self.judged[arm][:, batch]
        return loss_of(asked, logps, ref_logps, self.pair[:, batch], rewards)

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


def _scores(arm: ArmData) -> Tensor:
    """[n, 2, k], those of an arm that has some."""
    scores = torch.zeros(len(arm.weights), 2) if arm.scores is None else arm.scores
    return scores if scores.dim() == 3 else scores[..., None]


def tokens_of(length: Tensor) -> Tensor:
    """Of completions of lengths that are standard normal."""
    return TOKENS * torch.exp(length / 2)


def _pairs(world: World, arm: ArmData) -> tuple[Tensor, Tensor]:
    """Prompts [n] and completions [n, 2]."""
    if arm.prompts is None or arm.completions is None:
        return torch.arange(len(world.candidates)), world.candidates[:, :2]
    return arm.prompts, arm.completions


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
