"""The synthetic data set: noisy preference pairs, held-out pairs on new prompts, and text for the warm-up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Annotated, Any

from iwpo_fast.demo.tasks import TASKS, Task
from iwpo_fast.files import save_json, written_aside
from iwpo_fast.limits import FRACTION, POSITIVE, check_limits

MOST_ROWS = 60_000
"""Rows that the smallest family, with 17,920 prompts, still has prompts for."""


@dataclass(frozen=True)
class DatasetSettings:
    """What the data set looks like.

    Args:
        train_pairs: preference pairs to train on, the families in turn.
        eval_pairs: held-out pairs, on prompts that occur nowhere else.
        warmup_pairs: prompts with two completions each for the supervised warm-up.
        noise: probability that a label is flipped after it was drawn.
        temperature: labels are drawn with log-odds (difference of gold rewards) / temperature.
        length_bias: added to the log-odds for every word that a completion is longer than the other.
        seed: seed of everything.
    """

    train_pairs: Annotated[int, POSITIVE] = 4000
    eval_pairs: Annotated[int, POSITIVE] = 1000
    warmup_pairs: Annotated[int, POSITIVE] = 8000
    noise: Annotated[float, FRACTION] = 0.1
    temperature: Annotated[float, POSITIVE] = 0.5
    length_bias: float = 0.0
    seed: int = 0


def write_dataset(folder: Path, settings: DatasetSettings) -> None:
    """Write `train.jsonl`, `eval.jsonl`, `warmup.jsonl` and `settings.json` to `folder`, all or nothing.

    Preference rows have `task`, `prompt`, `chosen`, `rejected`, and for the record only, as no training reads them,
    `gold_chosen` and `gold_rejected`. Warm-up rows have `task`, `prompt`, `completion` and `other_completion`.

    Raises:
        ValueError: a setting is out of its range.
    """
    _check(settings)
    prompts = _new_prompts(Random(f"prompts {settings.seed}"))
    rng = Random(f"completions {settings.seed}")
    with written_aside(folder) as aside:
        aside.mkdir()
        write_jsonl(aside / "train.jsonl", (_pair(*next(prompts), rng, settings) for _ in range(settings.train_pairs)))
        write_jsonl(aside / "eval.jsonl", (_pair(*next(prompts), rng, settings) for _ in range(settings.eval_pairs)))
        write_jsonl(aside / "warmup.jsonl", (_completions(*next(prompts), rng) for _ in range(settings.warmup_pairs)))
        save_json(aside / "settings.json", asdict(settings))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def prefers_first(
    rewards: tuple[float, float], lengths: tuple[int, int], settings: DatasetSettings, rng: Random
) -> bool:
    """Draw a label: Bradley-Terry on gold rewards, with the length bias, flipped with probability `noise`."""
    log_odds = (rewards[0] - rewards[1]) / settings.temperature + settings.length_bias * (lengths[0] - lengths[1])
    # tanh saturates where exp would overflow.
    first = rng.random() < 0.5 * (1 + math.tanh(log_odds / 2))
    return first != (rng.random() < settings.noise)


def _new_prompts(rng: Random) -> Iterator[tuple[Task, str]]:
    """Prompts of all families in turn, none twice."""
    seen: set[str] = set()
    for task in cycle(TASKS.values()):
        prompt = task.new_prompt(rng)
        while prompt in seen:
            prompt = task.new_prompt(rng)
        seen.add(prompt)
        yield task, prompt


def _two(task: Task, prompt: str, rng: Random) -> tuple[str, str]:
    """Two different completions."""
    first = second = task.complete(prompt, rng)
    while second == first:
        second = task.complete(prompt, rng)
    return first, second


def _pair(task: Task, prompt: str, rng: Random, settings: DatasetSettings) -> dict[str, Any]:
    first, second = _two(task, prompt, rng)
    rewards = (task.gold_reward(prompt, first), task.gold_reward(prompt, second))
    scored = [(first, rewards[0]), (second, rewards[1])]
    if not prefers_first(rewards, (len(first.split()), len(second.split())), settings, rng):
        scored.reverse()
    (chosen, gold_chosen), (rejected, gold_rejected) = scored
    return {
        "task": task.name,
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "gold_chosen": round(gold_chosen, 6),
        "gold_rejected": round(gold_rejected, 6),
    }


def _completions(task: Task, prompt: str, rng: Random) -> dict[str, Any]:
    first, second = _two(task, prompt, rng)
    return {"task": task.name, "prompt": prompt, "completion": first, "other_completion": second}


def _check(settings: DatasetSettings) -> None:
    check_limits(settings)
    if (rows := settings.train_pairs + settings.eval_pairs + settings.warmup_pairs) > MOST_ROWS:
        raise ValueError(f"{rows} rows would need more prompts than the tasks have: ask for {MOST_ROWS} or fewer.")
