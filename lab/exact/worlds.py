"""Worlds whose truth is known: task families with a gold reward over 32 completions per prompt, and pairs from them.

A world is drawn from its seed alone: nothing in it was chosen by looking at how a method fares in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

COMPLETIONS = 32
PROMPT_FEATURES = 8
DISTRACTIONS = 8
LATENT = 12  # of a completion; the first is its length
FEATURES = 48
TEST_PROMPTS = 256
LENGTH_IN_GOLD = 0.2  # graders like length somewhat, as in the data of arXiv 2405.19316
REDRAWS = 24  # of a pair, to get the wanted share of pairs whose chosen completion is the longer


@dataclass(frozen=True)
class WorldSettings:
    """What differs between regimes.

    Attributes:
        pairs: of the training set, one per prompt.
        noise: probability that a label is flipped after the Bradley-Terry draw.
        tasks: number of families.
        candidates: completions drawn per prompt; the grader's best is chosen, one of the others rejected.
        off_policy: candidates come from another policy than the reference.
        conflict: tasks come in couples of nearly opposite taste.
        unseen: size, relative to the rest, of a part of the gold reward that is far from linear in the features, so
            that reward heads see little of it.
        longer_chosen: share of pairs whose chosen completion is the longer one; None leaves it to the grader.
        distraction: spread of `DISTRACTIONS` further prompt features that have nothing to do with tasks; 0 adds none.
    """

    pairs: int
    noise: float = 0.1
    tasks: int = 4
    candidates: int = 2
    off_policy: bool = False
    conflict: bool = False
    unseen: float = 0.0
    longer_chosen: float | None = None
    distraction: float = 0.0


@dataclass(frozen=True)
class Prompts:
    """P prompts with all their completions.

    Attributes:
        task: [P], int64.
        prompt_features: [P, 8], near the centre of the task; [P, 16] with those that distract.
        features: [P, 32, 48], what policies and reward models see of a completion: a frozen random layer.
        gold: [P, 32], gold reward in log-odds: the grader prefers y to y' with probability sigmoid(g(y) - g(y')).
        length: [P, 32], standard normal.
        ref_logps: [P, 32], log-probs of the reference policy.
        source_logps: [P, 32], log-probs of the policy that candidates come from.
    """

    task: Tensor
    prompt_features: Tensor
    features: Tensor
    gold: Tensor
    length: Tensor
    ref_logps: Tensor
    source_logps: Tensor


@dataclass(frozen=True)
class World:
    """A training set and the test prompts on which policies are compared.

    Attributes:
        train: P prompts, one per pair.
        candidates: [P, K], int64, indices of the drawn completions: first the chosen, second the rejected one.
        test: fresh prompts of the same tasks.
        scale: [tasks], spread of the gold reward inside a prompt.
    """

    train: Prompts
    candidates: Tensor
    test: Prompts
    scale: Tensor


def make_world(settings: WorldSettings, seed: int) -> World:
    """The world of a seed; regimes of one seed share tasks, features and test prompts where they have equal tasks."""
    truth = _Truth(settings, Generator().manual_seed(seed))
    test = truth.prompts(TEST_PROMPTS, settings.off_policy, Generator().manual_seed(1_000_000 + seed))
    random = Generator().manual_seed(2_000_000 + seed)
    train = truth.prompts(settings.pairs, settings.off_policy, random)
    return World(train, draw_candidates(train, settings, random), test, truth.scale)


def draw_candidates(prompts: Prompts, settings: WorldSettings, random: Generator) -> Tensor:
    """Draw and grade candidates: [P, K], the chosen one first, the rejected one second, the others after them.

    The grader takes the best of gold + Gumbel noise (for two candidates: Bradley-Terry), then some labels are flipped.
    With `longer_chosen` the pair of a prompt is drawn anew until the longer completion is chosen, or is rejected,
    as a coin of that probability says: the bias by resampling of arXiv 2405.19316, as understood here.
    """
    drawn = _graded(prompts, settings, random)
    if settings.longer_chosen is None:
        return drawn
    wanted = torch.rand(len(drawn), generator=random) < settings.longer_chosen
    for _ in range(REDRAWS):
        wrong = longer_is_chosen(prompts, drawn) != wanted
        drawn = torch.where(wrong[:, None], _graded(prompts, settings, random), drawn)
    return drawn


def longer_is_chosen(prompts: Prompts, candidates: Tensor) -> Tensor:
    """[P], bool."""
    length = prompts.length.gather(1, candidates[:, :2])
    return length[:, 0] > length[:, 1]


def _graded(prompts: Prompts, settings: WorldSettings, random: Generator) -> Tensor:
    drawn = (prompts.source_logps + _gumbel(prompts.gold.shape, random)).topk(settings.candidates).indices  # [P, K]
    opinion = prompts.gold.gather(1, drawn) + _gumbel(drawn.shape, random)
    others = torch.rand(drawn.shape, generator=random).scatter(1, opinion.argmax(1, keepdim=True), 2.0)
    graded = drawn.gather(1, others.argsort(1, descending=True))
    flipped = torch.rand(len(drawn), generator=random) < settings.noise
    swapped = torch.cat([graded[:, 1:2], graded[:, :1], graded[:, 2:]], 1)
    return torch.where(flipped[:, None], swapped, graded)


class _Truth:
    """What generates a world: tastes, levels and scales of the tasks, the frozen layer, the reference policy."""

    def __init__(self, settings: WorldSettings, random: Generator) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random)

        tasks, self.unseen, self.distraction = settings.tasks, settings.unseen, settings.distraction
        own_taste = _unit(normal(tasks, LATENT))
        if settings.conflict:
            own_taste[1::2] = -own_taste[: tasks - 1 : 2]
        own_share = 0.9 if settings.conflict else 0.5
        taste = math.sqrt(1 - own_share**2) * _unit(normal(1, LATENT)) + own_share * own_taste
        taste[:, 0] = LENGTH_IN_GOLD
        self.taste = taste  # [tasks, LATENT]
        self.product = _unit(normal(2, LATENT))  # a part of the gold reward that is not linear
        self.level = 3 * normal(tasks)
        self.scale = torch.exp(math.log(2.5) * (2 * torch.rand(tasks, generator=random) - 1))  # 0.4 to 2.5
        self.centres = 2 * _unit(normal(tasks, PROMPT_FEATURES))
        inputs = PROMPT_FEATURES + LATENT
        self.layer = normal(inputs, FEATURES) / math.sqrt(inputs)
        self.offset = 0.5 * normal(FEATURES)
        habits = _unit(normal(2, LATENT))
        self.reference = habits[0] + 0.3 * taste.mean(0)
        self.other = habits[1] + 0.3 * taste.mean(0)

    def prompts(self, count: int, off_policy: bool, random: Generator) -> Prompts:
        task = torch.randint(len(self.level), (count,), generator=random)
        prompt = self.centres[task] + 0.5 * torch.randn(count, PROMPT_FEATURES, generator=random)
        latent = torch.randn(count, COMPLETIONS, LATENT, generator=random)
        both = torch.cat([prompt[:, None].expand(-1, COMPLETIONS, -1), latent], 2)
        linear = (latent * self.taste[task][:, None]).sum(2)
        products = (latent @ self.product.T).prod(2)
        gold = self.level[task][:, None] + self.scale[task][:, None] * (linear + self.unseen * products)
        ref_logps = (latent @ self.reference).log_softmax(1)
        seen = prompt
        if self.distraction:
            others = self.distraction * torch.randn(count, DISTRACTIONS, generator=random)
            seen = torch.cat([prompt, others], 1)
        return Prompts(
            task=task,
            prompt_features=seen,
            features=torch.tanh(both @ self.layer + self.offset),
            gold=gold,
            length=latent[:, :, 0],
            ref_logps=ref_logps,
            source_logps=(latent @ self.other).log_softmax(1) if off_policy else ref_logps,
        )


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _gumbel(shape: torch.Size, random: Generator) -> Tensor:
    uniform = torch.rand(shape, generator=random).clamp(min=1e-20)
    return -(-uniform.log()).clamp(min=1e-20).log()
