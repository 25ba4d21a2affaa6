"""Annotators of two types who want opposite things: who is of which, from how many votes, and whom a policy serves.

Prompts are of three topics, and answers warm or cold. One type wants warm answers to two topics and cold ones to the
third, the other the opposite; four fifths of the annotators are of the first. A vote is right with probability 0.9.
A tiny language model first learns to answer either way, and is then trained by the library's `iwpo train`.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from iwpo_fast.annotators.minmax import worst
from iwpo_fast.annotators.mixture import Mixture
from iwpo_fast.config import (
    DataConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TinyConfig,
    TrainConfig,
    TypesConfig,
)
from iwpo_fast.demo.warmup import warm_up
from iwpo_fast.evaluation.sampling import sample_completions
from iwpo_fast.files import load_record
from iwpo_fast.models.pretrained import Source
from iwpo_fast.models.trained import base_of, read_adapter, read_tokenizer
from iwpo_fast.training import train
from lab.systems.shown import Shown

CLAIM = (
    "With 20 votes each, 30 annotators of two opposite tastes are told apart to at least 95 % in every seed; the less "
    "content type gets more reward from the MinMax mixture than from the policy of all votes; and from as many votes "
    "of 600 annotators, one each, they are told apart to less than 80 %, where known policies would reach 90 %."
)
TOPICS = ("tea", "soup", "bath")
WARM = (("hot", "brewed"), ("steaming", "heated"), ("warm", "cosy"))
COLD = (("iced", "chilled"), ("cold", "fresh"), ("cool", "brisk"))
"""Answers to the prompts of each topic."""
TASTE = np.array([1, 1, -1])
"""Of the first type by topic: 1 wants warm answers; the second type wants the opposite."""
RIGHT = 0.9
NUMBERS = 200
"""Different prompts of a topic."""
ALL, SEEDS, FIRST_SEED = 600, 3, 10
"""Votes and seeds; those below 10 were looked at before, with three rounds, in which EM had not come to its end."""
WAYS: Mapping[str, tuple[int, str]] = {
    "20 votes each, told by held-out ones": (20, "held_out"),
    "20 votes each, told by those trained on": (20, "trained"),
    "1 vote each": (1, "trained"),
}


def show(*, short: bool) -> Shown:
    votes, seeds, steps, rounds = (120, 1, 30, 1) if short else (ALL, SEEDS, 400, TypesConfig().rounds)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    rewards: list[dict[str, list[float]]] = []
    mixtures: list[dict[str, Any]] = []
    reports: dict[str, Any] = {}
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        base = spoken(Path(folder), steps)
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            for way, (each, told) in WAYS.items():
                config, truth = world(base, votes // each, each, told, rounds, seed)
                train(config)
                report = load_record(Path(config.output_dir) / "annotators.json")
                found[way].append(agreement(report["annotators"], truth))
                reports[f"{way}, seed {seed}"] = report["rounds"]
                if told == "held_out":
                    rewards.append(served(config, seed))
                    mixtures.append(load_record(Path(config.output_dir) / "mixture" / "mixture.json"))
    least = [{who: min(of_types) for who, of_types in of_seed.items()} for of_seed in rewards]
    first, _, one = found.values()
    holds = min(first) >= 0.95 and max(one) < 0.8 and all(of["mixture"] > of["all votes"] for of in least)
    rows = [
        ("annotators told apart, mean over types", *(f"seed {seed}" for seed in range(FIRST_SEED, FIRST_SEED + seeds)))
    ]
    rows += [(way, *(f"{100 * value:.1f} %" for value in values)) for way, values in found.items()]
    rows.append(("**mean reward of the less content type**", *("" for _ in least)))
    rows += [(name, *(f"{of[who]:+.2f}" for of in least)) for who, name in WHO.items()]
    rows.append(("share of the mixture that is of the first type's", *(f"{of['weights'][0]:.2f}" for of in mixtures)))
    regret = [worst_regrets(of) for of in mixtures]
    rows.append(("**nats that the worse off regrets**", *("" for _ in regret)))
    rows += [(WHO[who], *(f"{of[who]:.2f}" for of in regret)) for who in regret[0]]
    note = (
        f"{votes} votes in all ways, {rounds} rounds of EM; of 20 about half are held out, by their prompts. Reward is "
        "1 for an answer that a type wants, -1 for one that it does not, and 0 for any other text, mean over "
        f"{SAMPLED} sampled answers."
    )
    numbers = {"found": found, "rewards": rewards, "rounds": reports, "votes": votes}
    numbers["mixtures"] = [{name: of[name] for name in ("weights", "gains", "regrets")} for of in mixtures]
    return Shown(CLAIM, holds, rows, numbers, note)


WHO = {
    "base": "the model before",
    "all votes": "the policy of all votes",
    "type-0": "the policy of the first type",
    "type-1": "the policy of the second type",
    "mixture": "the MinMax mixture",
}
SAMPLED = 600


def spoken(folder: Path, steps: int) -> Path:
    """A tiny model that answers every prompt, warm or cold alike."""
    draw = np.random.default_rng(1)
    asked = [prompt_of(draw) for _ in range(1200)]
    rows = [{"prompt": p, "chosen": word(draw, t, 1), "rejected": word(draw, t, -1)} for p, t in asked]
    return spoken_from(rows, folder, steps)


def spoken_from(rows: list[dict[str, str]], folder: Path, steps: int) -> Path:
    """A tiny model that has learnt to say what is chosen and what is rejected in these rows."""
    write(folder / "spoken.jsonl", rows)
    tiny = TinyConfig(vocab_size=400, hidden_size=64, layers=2, heads=2)
    warm_up(
        data_in(folder / "spoken.jsonl", 0.0),
        ModelConfig(tiny=tiny),
        OptimConfig(lr=3e-3, epochs=100, max_steps=steps, pairs_per_step=64),
        output=folder / "base",
        seed=0,
        device="cpu",
    )
    return folder / "base"


def world(
    base: Path, annotators: int, each: int, told: Any, rounds: int, seed: int
) -> tuple[TrainConfig, dict[str, int]]:
    """The training, and the type of every annotator, four fifths of whom are of the first."""
    draw = np.random.default_rng([seed, 2, each])
    truth = {f"annotator {number}": int(number % 5 == 4) for number in range(annotators)}
    rows = [vote(draw, name, of_type) for name, of_type in truth.items() for _ in range(each)]
    path = base.parent / f"votes-{each}-{told}-{seed}.jsonl"
    write(path, rows)
    fraction = 0.5 if told == "held_out" else 0.0
    config = TrainConfig(
        data=data_in(path, fraction),
        model=ModelConfig(path=str(base), lora=LoraConfig(rank=4, alpha=4.0, target_modules=["down_proj"])),
        objective=ObjectiveConfig(beta=2.0),
        optim=OptimConfig(lr=3e-3, epochs=4 if fraction == 0 else 8, pairs_per_step=32),
        log=LogConfig(every=1000),
        types=TypesConfig(rounds=rounds, votes=told, mixture_prompts=96, mixture_tokens=4),
        output_dir=str(path.with_suffix("")),
        device="cpu",
        seed=seed,
    )
    return config, truth


def vote(draw: np.random.Generator, name: str, of_type: int) -> dict[str, str]:
    prompt, topic = prompt_of(draw)
    wanted = TASTE[topic] * (-1 if of_type else 1) * (1 if draw.random() < RIGHT else -1)
    return {
        "prompt": prompt,
        "chosen": word(draw, topic, wanted),
        "rejected": word(draw, topic, -wanted),
        "annotator": name,
    }


def prompt_of(draw: np.random.Generator) -> tuple[str, int]:
    topic = int(draw.integers(len(TOPICS)))
    return f"{TOPICS[topic]} {draw.integers(NUMBERS)}: ", topic


def word(draw: np.random.Generator, topic: int, warm: int) -> str:
    return str(draw.choice((WARM if warm > 0 else COLD)[topic]))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def data_in(path: Path, held_out: float) -> DataConfig:
    return DataConfig(path=str(path), eval_fraction=held_out, max_length=48, cache_dir=str(path.parent / "cache"))


def agreement(shares: Mapping[str, list[float]], truth: Mapping[str, int]) -> float:
    """Share of the annotators whose likelier type is their own, mean over both types, so that guessing makes 50 %.

    Types have no names: this is under the better of the two ways to call them.
    """
    found = [
        np.mean([np.argmax(shares[name]) == kind for name, of_type in truth.items() if of_type == kind])
        for kind in (0, 1)
    ]
    right = float(np.mean(found))
    return max(right, 1 - right)


def served(config: TrainConfig, seed: int) -> dict[str, list[float]]:
    """Mean reward of both types by the policy of all votes, by that of each type, by the mixture, and before."""
    pooled = replace(config, types=None, output_dir=f"{config.output_dir}-pooled")
    train(pooled)
    draw = np.random.default_rng([seed, 3])
    asked = [prompt_of(draw) for _ in range(SAMPLED)]
    prompts, topics = [prompt for prompt, _ in asked], [topic for _, topic in asked]
    mixture = Mixture.load(config.output_dir)
    answers = {"mixture": mixture.generate(prompts, max_new_tokens=4, seed=seed)}
    for name, folder in {
        "all votes": pooled.output_dir,
        **{n: f"{mixture.folder}/{n}" for n in ("type-0", "type-1")},
    }.items():
        source = Source(str(Path(folder) / "model" if name == "all votes" else folder), "model")
        model, tokenizer = read_adapter(source, base_of(source), torch.float32), read_tokenizer(source)
        answers[name] = sample_completions(model, tokenizer, prompts, max_new_tokens=4, seed=seed)
        with model.disable_adapter():
            answers["base"] = sample_completions(model, tokenizer, prompts, max_new_tokens=4, seed=seed)
    return {who: [reward_of(answers[who], topics, sign) for sign in (1, -1)] for who in WHO}


def worst_regrets(mixture: Mapping[str, Any]) -> dict[str, float]:
    """What MinMax itself makes small, by the policy of each type alone and by the mixture."""
    regret, weights = np.array(mixture["regrets"]), np.array(mixture["weights"])
    return {
        "type-0": worst(regret, np.eye(2)[0]),
        "type-1": worst(regret, np.eye(2)[1]),
        "mixture": worst(regret, weights),
    }


def reward_of(answers: list[str], topics: list[int], sign: int) -> float:
    both = zip(answers, topics, strict=True)
    warm = np.array([(answer in WARM[topic]) - (answer in COLD[topic]) for answer, topic in both], dtype=np.float64)
    return float((warm * TASTE[topics] * sign).mean())
