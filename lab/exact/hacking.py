"""Reward hacking at the exact level: expectations of proxy and gold reward along the path of every arm."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.rewards import PairFeatures, PairTable
from lab import experiment
from lab.exact.evaluate import factor_for, kl_of, log_policy
from lab.exact.policy import Policies, train
from lab.exact.regimes import FULL, Regime
from lab.exact.rewards import PairScores, score_by
from lab.exact.simulate import source_digest
from lab.exact.worlds import World, make_world
from lab.hacking import ARMS, Curve, mean_curve, table

REGIMES = (
    "300 pairs",
    "1,000 pairs",
    "2,000 pairs, 20 % noise",
    "2,000 pairs, conflicting tasks",
    "2,000 pairs, length bias",
    "4,000 pairs, reward partly unseen",
)
FIRST_SEED, WORLDS = 8000, 10
BUDGETS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # nats


def main(arguments: Sequence[str]) -> Path:
    """Follow all arms in some regimes; returns the path of the JSON."""
    parser = experiment.options("lab.hacking exact", __doc__, "iwpo-lab-exact")
    parser.add_argument("--worlds", type=int, default=WORLDS, help="worlds of a regime")
    options = parser.parse_args(arguments)
    facts, started, sources = experiment.on_one_thread(options.commit), time.monotonic(), source_digest()
    found = {}
    for regime in FULL:
        if regime.name in REGIMES:
            name = experiment.digest([Path(__file__)], regime.settings, options.worlds, [*ARMS], BUDGETS, sources)
            make = partial(_follow, regime, range(FIRST_SEED, FIRST_SEED + options.worlds))
            found[regime.name] = experiment.kept(options.parts / f"{name}.json", make)
            print(f"{time.monotonic() - started:6.0f} s  {regime.name}", flush=True)
    curves = {arm: mean_curve([of_regime[arm] for of_regime in found.values()]) for arm in ARMS}
    result = {
        "schema": 1,
        "date": date.today().isoformat(),
        "title": f"exact level, mean of {len(found)} regimes, {options.worlds} worlds each",
        "curves": curves,
        "regimes": found,
        "first_seed": FIRST_SEED,
        "seconds": round(time.monotonic() - started, 1),
        "environment": facts,
    }
    return experiment.write(options.out / "hacking-exact.json", result, _markdown(result))


def _follow(regime: Regime, seeds: Sequence[int]) -> dict[str, Curve]:
    """The curve of each arm, mean over the worlds of a regime."""
    worlds = [make_world(regime.settings, seed) for seed in seeds]
    scores = [_scores(world, seed) for world, seed in zip(worlds, seeds, strict=True)]
    data = [
        [arm.build(of_world[name], seed) for name, arm in ARMS.items()]
        for of_world, seed in zip(scores, seeds, strict=True)
    ]
    policies = train(worlds, data, regime.training, seed=seeds[0])
    found = [_of_world(policies.of_world(i), world, scores[i]) for i, world in enumerate(worlds)]
    return {arm: mean_curve([curves[arm] for curves in found]) for arm in ARMS}


def _scores(world: World, seed: int) -> dict[str, PairScores]:
    """By arm; arms of one reward model share it."""
    made: list[tuple[tuple[Any, Any], PairScores]] = []
    found = {}
    for name, arm in ARMS.items():
        settings = arm.rewards, arm.clusters
        known = [scores for other, scores in made if other == settings]
        found[name] = known[0] if known else score_by(world, *settings, seed=seed)
        made.append((settings, found[name]))
    return found


@torch.no_grad()
def _of_world(policies: Policies, world: World, scores: Mapping[str, PairScores]) -> dict[str, Curve]:
    f = policies.scores(world.test.features.flatten(0, 1)[None])[0].unflatten(1, world.test.gold.shape)  # [A, P, 32]
    proxies = torch.stack([proxy_rewards(scores[arm], world) for arm in ARMS])
    ref = world.test.ref_logps.exp()
    curves: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in ("kl", "proxy", "gold")} for arm in ARMS}
    for budget in BUDGETS:
        logps = log_policy(f, world.test, factor_for(f, world.test, budget))
        moved = logps.exp() - ref
        values = {
            "kl": kl_of(logps, world.test),
            "proxy": (moved * proxies).sum(2).mean(1),
            "gold": (moved * world.test.gold).sum(2).mean(1),
        }
        for name, of_arms in values.items():
            for arm, value in zip(ARMS, of_arms.tolist(), strict=True):
                curves[arm][name].append(value)
    return curves


def proxy_rewards(scores: PairScores, world: World) -> Tensor:
    """Rewards [P, 32] of all completions of the test prompts, by the model behind the scores."""
    assert scores.model is not None
    prompts, completions = world.test.gold.shape
    first = completions * np.arange(prompts)
    features = PairFeatures(
        PairTable(np.arange(prompts), first, first + 1, np.repeat(np.arange(prompts), completions)),
        world.test.prompt_features.numpy(),
        world.test.features.flatten(0, 1).numpy(),
        prompt_keys=[f"test {prompt}" for prompt in range(prompts)],
    )
    return torch.from_numpy(scores.model.score_features(features).score).float().unflatten(0, (prompts, completions))


def _markdown(result: dict[str, Any]) -> str:
    parts = [
        "What policies gain over the reference in their own reward model's eyes (proxy) and in truth (gold), in "
        f"log-odds, at each KL; {result['title']}, seeds from {result['first_seed']} on."
    ]
    for name, curves in {"Mean over the regimes": result["curves"], **result["regimes"]}.items():
        parts += [f"### {name}", table(curves)]
    return "\n\n".join(parts)
