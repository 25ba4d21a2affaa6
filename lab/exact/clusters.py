"""Whether clusters should be learnt with rewards: one cluster, k-means and the mixture, under the same uses of rewards.

Rule, written down before the run. What counts is posterior labels (ν = 1), the gain of gold reward at 1 nat, and 95 %
intervals against k-means. The mixture becomes the default if its mean over the regimes without distraction is
significantly above that of k-means, and it is significantly worse in none. It is an option of the library if it is
significantly better than k-means in some regime, with distraction or without, and worse in none. Otherwise it stays in
the laboratory. The regimes with distraction were made for it: there prompts differ more in what has nothing to do with
tasks than in their tasks, so that k-means on prompts cannot find them. Seeds from 7000 on have had no part in a choice.
A rehearsal had shown two worlds of each regime. After a first run, real pairs made the mixture harder to take, and the
run was repeated: no gain was another.

    python -m lab.exact.clusters
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.config import RewardConfig
from iwpo_fast.evaluation.preference import wins
from iwpo_fast.rewards import PairFeatures, PairTable, fit_clusters, score_pairs
from iwpo_fast.rewards.mixture_choice import best, held_out_trials
from iwpo_fast.rewards.mixture_clusters import gates_of
from iwpo_fast.rewards.mixture_inputs import read_inputs
from iwpo_fast.rewards.scores import folds_for
from lab import experiment
from lab.exact.arms import UNTIL_NOW, Build, unweighted, weighted
from lab.exact.candidates import EVEN, VARIANCES, posterior_logistic
from lab.exact.compare import at, mean_interval, mean_of_changes, relative_change
from lab.exact.evaluate import evaluate
from lab.exact.policy import TrainSettings, train
from lab.exact.results import MAIN_BUDGET, as_numbers
from lab.exact.rewards import CLUSTERS, Floats, PairScores, scores_by_model
from lab.exact.simulate import source_digest
from lab.exact.worlds import World, WorldSettings, make_world
from lab.experiment import as_cell, as_table

FIRST_SEED, WORLDS = 7000, 10
CLUSTERINGS = {"one cluster": "ensemble_one_cluster", "k-means": "ensemble", "mixture": "mixture"}
USES: Mapping[str, Build] = {
    "posterior labels": posterior_logistic(VARIANCES["ν 1"], EVEN),
    "the defaults until 2026-11-26": weighted(UNTIL_NOW),
}
REGIMES = {
    "1,000 pairs": WorldSettings(1000),
    "2,000 pairs, 30 % noise": WorldSettings(2000, noise=0.3),
    "2,000 pairs, 8 tasks": WorldSettings(2000, tasks=8),
    "2,000 pairs, conflicting tasks": WorldSettings(2000, conflict=True),
    "2,000 pairs, distraction": WorldSettings(2000, distraction=2.0),
    "2,000 pairs, conflicting tasks, distraction": WorldSettings(2000, conflict=True, distraction=2.0),
}
ACCURACIES = ("label", "gold")
NOISE_SHAPE = 600, 256, 64
"""Prompts, their features, and those of responses."""
NOISE_KINDS = ("k-means", "a gate for each fold", "one gate")


def main(arguments: Sequence[str] | None = None) -> Path:
    """Simulate, compare, write; returns the path of the JSON."""
    options = _parse(arguments)
    started = time.process_time()
    facts = experiment.on_one_thread(options.commit)
    sources = experiment.digest([Path(__file__)], source_digest())
    seeds = range(FIRST_SEED, FIRST_SEED + options.worlds)
    parts = {}
    for name, settings in REGIMES.items():
        path = options.parts / f"{experiment.digest([], settings, [*seeds], sources)}.json"
        parts[name] = experiment.kept(path, partial(_simulate, settings, seeds))
        print(f"{time.strftime('%H:%M:%S')}  {name}", flush=True)
    noise = 100 * np.array([noise_accuracies(seed) for seed in seeds]) - 50
    result = {
        "schema": 1,
        "date": date.today().isoformat(),
        "main_budget": MAIN_BUDGET,
        "worlds": options.worlds,
        "first_seed": FIRST_SEED,
        "regimes": {name: compared(part) for name, part in parts.items()},
        "means": {"without distraction": mean_of(parts, False), "with distraction": mean_of(parts, True)},
        "noise": {
            "worlds": options.worlds,
            "above half": {name: as_numbers(mean_interval(noise[:, i])) for i, name in enumerate(NOISE_KINDS)},
        },
        "cpu_seconds": round(time.process_time() - started, 1),
        "environment": facts,
    }
    return experiment.write(options.out / "exact-clusters.json", result, markdown(result))


def _simulate(settings: WorldSettings, seeds: Sequence[int]) -> dict[str, Any]:
    """Gold reward of the arms [W, A, 1 + budgets], the first of them DPO, and accuracies [W, clusterings, 3]."""
    worlds = [make_world(settings, seed) for seed in seeds]
    both = list(zip(worlds, seeds, strict=True))
    scored = [scores_by_model(world, CLUSTERINGS.values(), seed) for world, seed in both]
    arms = [
        [unweighted()(of_world["ensemble"], seed)]
        + [use(of_world[model], seed) for use in USES.values() for model in CLUSTERINGS.values()]
        for of_world, seed in zip(scored, seeds, strict=True)
    ]
    found = evaluate(train(worlds, arms, TrainSettings(), seed=seeds[0]), worlds)
    accuracies = [
        [_accuracies(scores[model], world) for model in CLUSTERINGS.values()]
        for world, scores in zip(worlds, scored, strict=True)
    ]
    return {"gold": found["gold"].double().numpy().round(6).tolist(), "accuracies": accuracies}


def _accuracies(scores: PairScores, world: World) -> tuple[float, float]:
    """How often rewards of pairs that heads had not seen agree with labels, and with gold rewards."""
    gold = world.train.gold.gather(1, world.candidates[:, :2]).numpy()
    gap = scores.rewards.gap
    return float(wins(gap).mean()), float(wins(gap * np.sign(gold[:, 0] - gold[:, 1])).mean())


def noise_accuracies(seed: int) -> tuple[float, float, float]:
    """How often heads agree with held-out labels that are noise, in the clusters of three kinds.

    These are k-means, the gates of a mixture by fold, and its one gate that has seen all labels. The mixture is taken
    whether it is worth it or not, and heads use the clusters whether they are worth it or not.
    """
    random = np.random.default_rng(seed)
    prompts, features, responses = NOISE_SHAPE
    table = PairTable.plain(np.arange(prompts))
    of_pairs = PairFeatures(
        table,
        random.standard_normal((prompts, features), dtype=np.float32),
        random.standard_normal((2 * prompts, responses), dtype=np.float32),
    )
    settings = RewardConfig(ensemble=1, ridge=1e-3, residual=1e-3)
    by_kmeans = fit_clusters(of_pairs.prompt, np.ones(prompts, dtype=np.int64), CLUSTERS, seed=seed)
    fold = folds_for(of_pairs, prompts, settings, seed)
    inputs = read_inputs(of_pairs, settings, by_kmeans, np.arange(prompts), seed=seed)
    gates = gates_of(inputs, best(held_out_trials(inputs), ["mixture"]))
    kinds = by_kmeans.cells(of_pairs.prompt), gates.assign(of_pairs.prompt, fold), gates.assign(of_pairs.prompt)
    scores = [score_pairs(of_pairs, cluster, settings, seed=seed) for cluster in kinds]
    one, two, three = (score.report["total"]["accuracy"] for score in scores)
    return one, two, three


def compared(part: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready: of one regime, accuracies in per cent, changes of DPO's gain, and the mixture against k-means."""
    gold, accuracies = _gold(part), 100 * np.array(part["accuracies"])
    rows = {}
    for use, kinds in gold.items():
        rows[use] = {name: as_numbers(relative_change(values, kinds["dpo"])) for name, values in kinds.items()}
        del rows[use]["dpo"]
        rows[use]["mixture against k-means"] = as_numbers(relative_change(kinds["mixture"], kinds["k-means"]))
    return {
        "gain": rows,
        "dpo": float(next(iter(gold.values()))["dpo"].mean()),
        "accuracy": {
            what: {name: as_numbers(mean_interval(accuracies[:, c, i])) for c, name in enumerate(CLUSTERINGS)}
            | {"mixture against k-means": as_numbers(mean_interval(accuracies[:, 2, i] - accuracies[:, 1, i]))}
            for i, what in enumerate(ACCURACIES)
        },
    }


def mean_of(parts: Mapping[str, Any], distraction: bool) -> dict[str, Any]:
    """The mixture against k-means, mean over the regimes with distraction or over those without, for each use."""
    chosen = [_gold(part) for name, part in parts.items() if bool(REGIMES[name].distraction) == distraction]
    return {use: as_numbers(mean_of_changes([(g[use]["mixture"], g[use]["k-means"]) for g in chosen])) for use in USES}


def _gold(part: Mapping[str, Any]) -> dict[str, dict[str, Floats]]:
    """[W], at the main budget, for each use of rewards and each clustering, with DPO beside them."""
    gold = np.array(part["gold"])
    arms = iter(range(1, gold.shape[1]))
    values = {"gold": gold[:, 0]}
    dpo = at(MAIN_BUDGET, "gold", values)
    return {
        use: {"dpo": dpo} | {name: at(MAIN_BUDGET, "gold", {"gold": gold[:, next(arms)]}) for name in CLUSTERINGS}
        for use in USES
    }


def markdown(result: dict[str, Any]) -> str:
    """Gains by use of rewards, accuracies, and what labels that are noise give away."""
    noise = result["noise"]
    shown = ", ".join(f"{name} {as_cell(interval)} %" for name, interval in noise["above half"].items())
    return "\n\n".join(
        [
            f"Clusters of prompts by three methods, {result['worlds']} worlds per regime with seeds from "
            f"{result['first_seed']} on; 95 % intervals. The rule is in `lab/exact/clusters.py`.",
            *(_gains(result, use) for use in USES),
            "Pairs on which rewards by heads that had not seen them agree with the label, or with gold rewards, in %:",
            _accuracy_table(result),
            f"Agreement with held-out labels that are noise, less 50 %, over {noise['worlds']} worlds of "
            f"{NOISE_SHAPE[0]} prompts with {NOISE_SHAPE[1]} features: {shown}.",
        ]
    )


def _gains(result: dict[str, Any], use: str) -> str:
    columns = [*CLUSTERINGS, "mixture against k-means"]
    rows = [["regime", "DPO's gain", *columns]]
    for name, regime in result["regimes"].items():
        rows.append([name, f"{regime['dpo']:.2f}", *(as_cell(regime["gain"][use][column]) for column in columns)])
    for name, means in result["means"].items():
        rows.append([f"mean over regimes {name}", "", "", "", "", as_cell(means[use])])
    return (
        f"Gain of gold reward at {result['main_budget']:g} nat with {use}, as a change of DPO's in %, and that of the "
        f"mixture as a change of that of k-means:\n\n{as_table(rows)}"
    )


def _accuracy_table(result: dict[str, Any]) -> str:
    rows = [["regime", *(f"{what}: {name}" for what in ACCURACIES for name in (*CLUSTERINGS, "change"))]]
    for name, regime in result["regimes"].items():
        cells = [
            as_cell(interval) if kind == "mixture against k-means" else f"{interval['mean']:.1f}"
            for what in ACCURACIES
            for kind, interval in regime["accuracy"][what].items()
        ]
        rows.append([name, *cells])
    return as_table(rows)


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = experiment.options("lab.exact.clusters", __doc__, "iwpo-lab-exact")
    parser.add_argument("--worlds", type=int, default=WORLDS, help="worlds of a regime")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
