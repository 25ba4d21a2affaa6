"""Reward hacking of the small language model: proxy and gold reward of samples along the path of every arm."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.rewards.feature_reader import FeatureReader
from iwpo_fast.rewards.text_rows import rows_of_texts
from iwpo_fast.world import World
from lab import experiment
from lab.exact.rewards import PairScores
from lab.hacking import ARMS, Curve, Followed, mean_curve, table
from lab.language_model.rewards import score_by
from lab.language_model.run import NOISE, parts_digest
from lab.language_model.sampling import Samples, kl_along
from lab.language_model.settings import LabSettings
from lab.language_model.training import train_arm
from lab.language_model.world import LabWorld, make_world, sampled_gold, supervise

SCALES = (0.35, 0.7, 1.2, 2.0, 3.0, 4.5)
SEEDS = range(20, 22)
TOKENS_PER_BATCH = 8192


def main(arguments: Sequence[str]) -> Path:
    """Follow all arms in the worlds of some seeds; returns the path of the JSON."""
    parser = experiment.options("lab.hacking lm", __doc__, "iwpo-lab-language-model")
    parser.add_argument("--noise", type=float, default=NOISE, help="probability that a label is flipped")
    parser.add_argument("--minutes", type=float, help="start no training after this time, and report what there is")
    options = parser.parse_args(arguments)
    facts, started = experiment.on_one_thread(options.commit), time.monotonic()
    settings = replace(LabSettings(), noise=options.noise)
    result = follow(settings, SEEDS, options.parts / parts_digest(settings), options.minutes)
    result |= {"environment": facts, "seconds": round(time.monotonic() - started, 1)}
    return experiment.write(options.out / "hacking-language-model.json", result, _markdown(result))


def follow(settings: LabSettings, seeds: Sequence[int], folder: Path, minutes: float | None) -> dict[str, Any]:
    """JSON-ready: the curve of every arm, mean over the seeds in which all arms have been followed."""
    started, kept = time.monotonic(), folder / "hacking" / experiment.digest([Path(__file__)], SCALES)
    found: dict[int, dict[str, Curve]] = {seed: {} for seed in seeds}

    @lru_cache(maxsize=1)
    def world_of(seed: int) -> LabWorld:
        return make_world(settings, seed, supervise(settings, folder), folder / f"seed-{seed}")

    def follow_one(seed: int, name: str) -> Curve:
        return _curve(world_of(seed), ARMS[name], settings)

    for seed, name in product(seeds, ARMS):
        path = kept / f"{name}-{seed}.json"
        if path.exists() or minutes is None or time.monotonic() - started < 60 * minutes:
            found[seed][name] = experiment.kept(path, partial(follow_one, seed, name))
            print(f"{time.monotonic() - started:6.0f} s  {name}, seed {seed}", flush=True)
    whole = [curves for curves in found.values() if len(curves) == len(ARMS)]
    return {
        "schema": 1,
        "date": date.today().isoformat(),
        "title": f"language model, {settings.noise:.0%} of the labels flipped, {len(whole)} seeds",
        "settings": asdict(settings),
        "scales": SCALES,
        "curves": {arm: mean_curve([curves[arm] for curves in whole]) for arm in ARMS if whole},
        "seeds": {seed: curves for seed, curves in found.items() if curves},
    }


def _curve(world: LabWorld, arm: Followed, settings: LabSettings) -> Curve:
    """KL, and proxy and gold reward over those of the supervised policy, at each of `SCALES`."""
    scores = score_by(world, arm.rewards, arm.clusters, samples=0)
    policy = train_arm(world, arm.build(scores, world.seed), settings)
    start, samples = sampled_gold(world.policy, world.tokenizer, world.test, settings, world.seed)
    start_proxy = _proxy(world, scores, samples)
    curve: dict[str, list[float]] = {"kl": [], "proxy": [], "gold": []}
    for scale in SCALES:
        with world.policy.plain_attention() as reference:
            gold, samples = sampled_gold(
                policy, world.tokenizer, world.test, settings, world.seed, reference=reference, scale=scale
            )
            curve["kl"].append(float(kl_along(samples, reference).double().mean()))
        curve["proxy"].append(_proxy(world, scores, samples) - start_proxy)
        curve["gold"].append(float((gold - start).mean()) / settings.temperature)
    return curve


def _proxy(world: LabWorld, scores: PairScores, samples: Samples) -> float:
    """Mean reward of samples by the model behind the scores, in log-odds."""
    assert scores.model is not None
    data = DataConfig("samples", max_length=128, on_prefix_mismatch="drop", truncation="truncate_completion")
    rows = rows_of_texts([row["prompt"] for row in world.test], samples.texts(world.tokenizer))
    with tempfile.TemporaryDirectory() as cache:
        reader = FeatureReader(
            world.policy, world.tokenizer, World.start("cpu"), replace(data, cache_dir=cache), TOKENS_PER_BATCH
        )
        return float(np.nanmean(scores.model.score_rows(rows, reader).score))


def _markdown(result: dict[str, Any]) -> str:
    about = (
        "What policies gain over the supervised one in their own reward model's eyes (proxy) and in truth (gold), in "
        f"log-odds, at each KL; {result['title']}. The KL of a column is that of DPO."
    )
    return "\n\n".join([about, table(result["curves"])])
