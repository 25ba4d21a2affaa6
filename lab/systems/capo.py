"""Two rewards in conflict, on scales of their own: what pairs of their sum learn, and pairs between Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from iwpo_fast.data.compared import Compared, Pairing, compared
from lab.exact.evaluate import BUDGETS, factor_for, log_policy
from lab.exact.policy import ArmData, Policies, TrainSettings, train
from lab.exact.worlds import COMPLETIONS, FEATURES, Prompts, World
from lab.systems.shown import Shown

CLAIM = (
    "Two rewards of correlation -0.5, the first on three times the scale of the second: in every world and at every "
    "KL, policies trained by CaPO's regression on pairs between Pareto fronts raise both rewards, and those trained by "
    "the same regression on the best and the worst by the summed reward raise the first and lower the second."
)
CORRELATION = -0.5
SPREADS = (3.0, 1.0)  # of the two rewards, in log-odds
CANDIDATES = 8
WORLDS, PROMPTS, SHORT_PROMPTS = 5, 512, 64
SUM, RATES, FRONTS = "best and worst by the sum", "best and worst by mean win rates", "Pareto fronts"
LOSSES = REGRESSION, DPO = "regression", "DPO"


class Two(NamedTuple):
    """A world with two rewards, [2, P, 32] each, of the prompts for training and for the test."""

    world: World
    train: Tensor
    test: Tensor


class Chosen(NamedTuple):
    """The pairs of a construction.

    Attributes:
        couples: of each prompt its better and worse candidate, or None.
        gaps: of each prompt the difference in value of the two.
    """

    couples: list[tuple[int, int] | None]
    gaps: list[float]


def show(*, short: bool) -> Shown:
    worlds, prompts = (1, SHORT_PROMPTS) if short else (WORLDS, PROMPTS)
    settings = TrainSettings(hidden=0, steps=50 if short else 400)
    found = [in_world(seed, prompts, settings) for seed in range(worlds)]
    gains = {arm: torch.stack([of_world[arm] for of_world, _ in found]) for arm in found[0][0]}  # [worlds, 2, budgets]
    by_fronts, by_sum = gains[f"{FRONTS}, {REGRESSION}"], gains[f"{SUM}, {REGRESSION}"]
    holds = bool((by_fronts > 0).all() and (by_sum[:, 0] > 0).all() and (by_sum[:, 1] < 0).all())
    middle = BUDGETS.index(1.0)
    rows = [
        ("pairs, loss", "first reward", "second reward"),
        *((arm, _range(of_arm[:, 0, middle]), _range(of_arm[:, 1, middle])) for arm, of_arm in gains.items()),
    ]
    shares = {name: [facts[name] for _, facts in found] for name in found[0][1]}
    negative = max(shares["negative_gaps"])
    note = (
        f"Gain over the reference in standard deviations of each reward, exact over {COMPLETIONS} completions of fresh "
        f"prompts, at a KL of 1 nat; least to most of {worlds} worlds. A pair for each of {prompts} prompts, made of "
        f"{CANDIDATES} candidates, in {min(shares['prompts'])} of them at least, those in which all constructions "
        f"make one. In up to {100 * negative:.0f} % of the pairs between fronts the one of the lower front has the "
        "higher mean win rate; the regression is told so, and DPO is not."
    )
    numbers = {"budgets": BUDGETS, "gains": {arm: of_arm.tolist() for arm, of_arm in gains.items()}, **shares}
    return Shown(CLAIM, holds, rows, numbers, note)


def in_world(seed: int, prompts: int, settings: TrainSettings) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    """Gains of both rewards at each KL, [2, budgets], by arm; and facts on the pairs."""
    two = make(seed, prompts)
    made = {name: pairs_of(two.train, name) for name in (SUM, RATES, FRONTS)}
    everywhere = [p for p in range(prompts) if all(of.couples[p] is not None for of in made.values())]
    gains = {}
    for name, of in made.items():  # arms that are trained together share their pairs
        policies = train([two.world], [[_arm(of, everywhere, loss) for loss in LOSSES]], settings, seed)
        gains |= {f"{name}, {loss}": gain for loss, gain in zip(LOSSES, gains_of(policies, two), strict=True)}
    negative = sum(made[FRONTS].gaps[p] < 0 for p in everywhere) / len(everywhere)
    return gains, {"negative_gaps": negative, "prompts": len(everywhere)}


def make(seed: int, prompts: int) -> Two:
    """Features are normal, rewards linear in them, and the reference is uniform."""
    random = Generator().manual_seed(seed)
    first = _unit(torch.randn(FEATURES, generator=random))
    other = torch.randn(FEATURES, generator=random)
    across = _unit(other - (other @ first) * first)
    second = CORRELATION * first + math.sqrt(1 - CORRELATION**2) * across
    tastes = torch.stack([SPREADS[0] * first, SPREADS[1] * second])
    of_train, of_test = (_prompts(prompts, random) for _ in range(2))
    candidates = torch.arange(CANDIDATES).expand(prompts, -1)  # any are a draw from the uniform reference
    world = World(of_train, candidates, of_test, torch.ones(1))
    rewards = [torch.einsum("pnf,rf->rpn", of.features, tastes) for of in (of_train, of_test)]
    return Two(world, *rewards)


def pairs_of(rewards: Tensor, name: str) -> Chosen:
    """One pair for each prompt of the candidates' rewards [2, P, >= 8], by what `iwpo train` makes pairs with."""
    made = [_compared(p, of_prompt, name) for p, of_prompt in enumerate(rewards[:, :, :CANDIDATES].transpose(0, 1))]
    couples = [of.couples[0] if of.couples else None for of in made]
    gaps = [of.values[c[0]] - of.values[c[1]] if c else math.nan for of, c in zip(made, couples, strict=True)]
    return Chosen(couples, gaps)


def _compared(prompt: int, rewards: Tensor, name: str) -> Compared:
    keys = [f"{prompt} {k}" for k in range(CANDIDATES)]
    if name == SUM:
        return compared(rewards.sum(0).tolist(), keys, Pairing("best_worst"))
    return compared(
        list(zip(*rewards.tolist(), strict=True)), keys, Pairing("pareto" if name == FRONTS else "best_worst")
    )


def _arm(made: Chosen, prompts: list[int], loss: str) -> ArmData:
    """Gaps in units of their own size, because a policy's scale is set by the KL at which it is compared."""
    couples = torch.tensor([made.couples[p] for p in prompts])
    gaps = torch.tensor([made.gaps[p] for p in prompts])
    even = torch.ones(len(prompts))
    targets = (gaps / gaps.square().mean().sqrt())[:, None] if loss == REGRESSION else None
    return ArmData(even, 0 * even, targets, prompts=torch.tensor(prompts), completions=couples)


@torch.no_grad()
def gains_of(policies: Policies, two: Two) -> Tensor:
    """[A, 2, budgets], in standard deviations of the rewards."""
    test = two.world.test
    scores = policies.scores(test.features.flatten(0, 1)[None])[0].unflatten(1, test.ref_logps.shape)
    changes = [log_policy(scores, test, factor_for(scores, test, kl)).exp() - test.ref_logps.exp() for kl in BUDGETS]
    gains = torch.einsum("bapn,rpn->arbp", torch.stack(changes), two.test).mean(3)
    return gains / torch.tensor(SPREADS)[:, None]


def _prompts(count: int, random: Generator) -> Prompts:
    features = torch.randn(count, COMPLETIONS, FEATURES, generator=random)
    none, even = torch.zeros(count, COMPLETIONS), torch.full((count, COMPLETIONS), -math.log(COMPLETIONS))
    task = torch.zeros(count, dtype=torch.int64)
    return Prompts(task, torch.zeros(count, 1), features, none, none, even, even)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _range(values: Tensor) -> str:
    return f"{values.min():+.2f} to {values.max():+.2f}"
