"""Annotators of two types who are asked once each: one ranking of three answers says what one pair does not.

Answers have three features, each in one of two forms. One type wants the first form of two features and the second of
the third, the other the opposite; seven tenths of the annotators are of the first. The two answers of a pair differ in
one feature; of three that are ranked two differ from the first, each in another one. Orders are drawn by Plackett and
Luce's model, in which a pair is told rightly with probability 0.9. A tiny language model is trained by `iwpo train`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from iwpo_fast.config import LogConfig, LoraConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig, TypesConfig
from iwpo_fast.files import load_record
from iwpo_fast.training import train
from lab.systems.em import agreement, data_in, spoken_from, write
from lab.systems.shown import Shown

CLAIM = (
    "From one ranking of three answers each, 600 annotators of two opposite tastes are told apart to at least 85 % in "
    "every seed; from one pair each to less than 80 %, and so are 1,200, whose pairs are as many choices."
)
Answer = NDArray[np.int64]
"""1 or -1 for each feature."""
FORMS = (("hot", "iced"), ("sweet", "salty"), ("big", "small"))
"""Words of each feature."""
TASTE = np.array([1, 1, -1])
"""Of the first type by feature; the second type wants the opposite."""
FIRST = 0.7
"""Share of the annotators that are of the first type."""
STRENGTH = np.log(9) / 2
"""Reward of a wanted form, and minus that of the other, so that a pair is told rightly in nine of ten."""
ALL, SEEDS, FIRST_SEED = 600, 3, 10
"""Annotators, and seeds; the settings of the world were found in the seeds 0 and 1."""
WAYS: Mapping[str, tuple[int, int]] = {
    "one ranking of three each": (3, 1),
    "one pair each": (2, 1),
    "one pair each, twice as many annotators": (2, 2),
}
"""Answers of a vote, and how many times as many annotators."""


def show(*, short: bool) -> Shown:
    annotators, seeds, steps, rounds = (60, 1, 30, 1) if short else (ALL, SEEDS, 400, TypesConfig().rounds)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    reports: dict[str, Any] = {}
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        base = spoken(Path(folder), steps)
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            for way, (answers, times) in WAYS.items():
                config, truth = world(base, times * annotators, answers, rounds, seed)
                train(config)
                report = load_record(Path(config.output_dir) / "annotators.json")
                found[way].append(agreement(report["annotators"], truth))
                reports[f"{way}, seed {seed}"] = report["rounds"]
    ranked, *pairs = found.values()
    holds = min(ranked) >= 0.85 and all(max(values) < 0.8 for values in pairs)
    at_best = {way: known(answers) for way, (answers, _) in WAYS.items()}
    names = (f"seed {seed}" for seed in range(FIRST_SEED, FIRST_SEED + seeds))
    rows = [("annotators told apart, mean over types", *names, "by known policies")]
    rows += [(way, *(f"{100 * value:.1f} %" for value in [*found[way], at_best[way]])) for way in WAYS]
    note = (
        f"{annotators} annotators, or twice as many, {rounds} rounds of EM with as many steps in all ways; guessing is "
        "50 %. By known policies: who knows both tastes and how many have them, on 20,000 annotators."
    )
    return Shown(CLAIM, holds, rows, {"found": found, "known": at_best, "rounds": reports}, note)


def spoken(folder: Path, steps: int) -> Path:
    """A tiny model that gives every answer, all alike."""
    draw = np.random.default_rng(1)
    rows = []
    for _ in range(1200):
        chosen, rejected = map(text_of, compared(draw, 2))
        rows.append({"prompt": prompt_of(draw), "chosen": chosen, "rejected": rejected})
    return spoken_from(rows, folder, steps)


def world(base: Path, annotators: int, answers: int, rounds: int, seed: int) -> tuple[TrainConfig, dict[str, int]]:
    """The training on one vote of each annotator, and the type of each."""
    draw, truth = np.random.default_rng([seed, 5, answers, annotators]), types_of(annotators)
    rows = [vote(draw, name, answers, of_type) for name, of_type in truth.items()]
    path = base.parent / f"votes-{annotators}-{answers}-{seed}.jsonl"
    write(path, rows)
    config = TrainConfig(
        data=data_in(path, 0.0),
        model=ModelConfig(path=str(base), lora=LoraConfig(rank=4, alpha=4.0, target_modules=["down_proj"])),
        objective=ObjectiveConfig("dpo_ranked" if answers > 2 else "sigmoid", beta=2.0),
        optim=OptimConfig(lr=3e-3, epochs=8 * ALL // max(ALL, annotators), pairs_per_step=32),
        log=LogConfig(every=1000),
        types=TypesConfig(rounds=rounds, votes="trained", mixture_prompts=0),
        output_dir=str(path.with_suffix("")),
        device="cpu",
        seed=seed,
    )
    return config, truth


def types_of(annotators: int) -> dict[str, int]:
    return {f"annotator {number}": int(number % 10 >= 10 * FIRST) for number in range(annotators)}


def vote(draw: np.random.Generator, name: str, answers: int, of_type: int) -> dict[str, Any]:
    order = ranked_by(draw, compared(draw, answers), of_type)
    return {"prompt": prompt_of(draw), "ranked": [text_of(answer) for answer in order], "annotator": name}


def compared(draw: np.random.Generator, answers: int) -> list[Answer]:
    """An answer, and others that each differ from it in another feature."""
    first = draw.choice([-1, 1], size=len(TASTE))
    features = draw.permutation(len(TASTE))[: answers - 1]
    return [first, *(np.where(np.arange(len(TASTE)) == feature, -first, first) for feature in features)]


def ranked_by(draw: np.random.Generator, answers: Sequence[Answer], of_type: int) -> list[Answer]:
    """From the best to the worst: by reward and Gumbel's noise, which is Plackett and Luce's model."""
    noisy = rewards_of(answers, of_type) + draw.gumbel(size=len(answers))
    return [answers[place] for place in np.argsort(-noisy)]


def rewards_of(answers: Sequence[Answer], of_type: int) -> NDArray[np.float64]:
    return STRENGTH * (np.stack(answers) @ TASTE) * (-1 if of_type else 1)


def prompt_of(draw: np.random.Generator) -> str:
    return f"meal {draw.integers(ALL)}: "


def text_of(answer: Answer) -> str:
    return " ".join(forms[0 if sign > 0 else 1] for forms, sign in zip(FORMS, answer, strict=True))


def known(answers: int) -> float:
    """Share told apart, mean over types, by who knows the tastes of both and how many have them."""
    draw, truth = np.random.default_rng([6, answers]), types_of(20_000)
    shares = {}
    for name, of_type in truth.items():
        order = ranked_by(draw, compared(draw, answers), of_type)
        logs = np.log([FIRST, 1 - FIRST]) + [log_likelihood(rewards_of(order, kind)) for kind in (0, 1)]
        shares[name] = softmax(logs).tolist()
    return agreement(shares, truth)


def log_likelihood(rewards: NDArray[np.float64]) -> float:
    """Of an order, by Plackett and Luce's model."""
    return float(sum(rewards[k] - logsumexp(rewards[k:]) for k in range(len(rewards))))
