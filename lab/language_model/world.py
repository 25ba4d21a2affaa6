"""The world of a seed: a supervised policy, pairs sampled from it and labelled by the gold reward, held-out prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from iwpo_fast.config import DataConfig, ModelConfig
from iwpo_fast.data import Pairs, read_rows, tokenise
from iwpo_fast.demo.generate import DatasetSettings, prefers_first, read_jsonl, write_dataset, write_jsonl
from iwpo_fast.demo.tasks import TASKS
from iwpo_fast.demo.warmup import warm_up
from iwpo_fast.files import written_aside
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.reference import with_reference
from iwpo_fast.rewards.features import PairFeatures, pair_features
from iwpo_fast.world import World
from lab.exact.rewards import Floats
from lab.language_model.sampling import Samples, sample
from lab.language_model.settings import LabSettings

TASK_NUMBER = {name: number for number, name in enumerate(TASKS)}
SUPERVISION_SEED = 1_000_000
REDRAWS = 1  # for completions that are empty or equal; what is still no pair after that is left out


@dataclass(frozen=True)
class LabWorld:
    """What all arms of a seed share.

    Attributes:
        policy: the supervised policy, which is the reference.
        pairs: P of them, with their reference log-probs.
        features: of prompts and responses, from the supervised policy.
        gold: float64 [P, 2], gold rewards in log-odds of chosen and rejected completions.
        task: int64 [P], task of each pair.
        test: held-out rows with `task` and `prompt`, every prompt `samples` times in a row.
        start: gold rewards of the supervised policy's completions of the held-out prompts.
        scale: float64 [tasks], standard deviation of the gold reward over these, within the task; 1 without any.
    """

    seed: int
    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    pairs: Pairs
    features: PairFeatures
    gold: Floats
    task: NDArray[np.int64]
    test: list[dict[str, Any]]
    start: Floats
    scale: Floats


def supervise(settings: LabSettings, folder: Path) -> Path:
    """The folder of the supervised policy, which is trained if it is not there; all seeds share it."""
    model = folder / "supervised"
    if not model.exists():
        data = folder / "supervision"
        if not data.exists():
            write_dataset(data, DatasetSettings(1, 1, settings.warmup_pairs, seed=SUPERVISION_SEED))
        text = _data(data / "warmup.jsonl", folder, chosen="completion", rejected="other_completion")
        tiny = ModelConfig(tiny=settings.model)
        loss = warm_up(text, tiny, settings.warmup, output=model, seed=SUPERVISION_SEED, device="cpu")
        print(f"supervised policy: {loss:.3f} nats per token", flush=True)
    return model


def make_world(settings: LabSettings, seed: int, supervised: Path, folder: Path) -> LabWorld:
    """Make the world, or read what an earlier run left of it in `folder`."""
    data = folder / "data"
    if not data.exists():
        write_dataset(data, DatasetSettings(settings.pairs, settings.test_prompts, 1, seed=seed))
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(supervised)
    alone = World.start("cpu")
    policy = load_policy(ModelConfig(path=str(supervised)), tokenizer, alone, seed=seed)
    labelled = folder / "pairs.jsonl"
    if not labelled.exists():
        with written_aside(labelled) as aside:
            write_jsonl(aside, _labelled(read_jsonl(data / "train.jsonl"), policy, tokenizer, settings, seed))
    config = _data(labelled, folder)
    pairs, _ = tokenise(read_rows(config)[0], tokenizer, config)
    cache, budget = folder / "cache", settings.optim.tokens_per_batch
    features = pair_features(policy, pairs, alone, cache, tokens_per_batch=budget)
    pairs = with_reference(policy, pairs, alone, cache, tokens_per_batch=budget)
    assert pairs.scores is not None
    test = [row for row in read_jsonl(data / "eval.jsonl") for _ in range(settings.samples)]
    start, _ = sampled_gold(policy, tokenizer, test, settings, seed)
    task = np.array([TASK_NUMBER[row["task"]] for row in test])
    return LabWorld(
        seed=seed,
        policy=policy,
        tokenizer=tokenizer,
        pairs=pairs,
        features=features,
        gold=pairs.scores[:, :, 0] / settings.temperature,
        task=pairs.columns["cluster"].astype(np.int64),
        test=test,
        start=start,
        scale=np.array([start[task == k].std() or 1.0 for k in range(len(TASKS))]),
    )


def sampled_gold(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    settings: LabSettings,
    seed: int,
    **scaling: Any,
) -> tuple[Floats, Samples]:
    """Gold rewards of one completion for each row, and the completions; `scaling` as in `sample`."""
    policy.eval()
    with policy.plain_attention() as model:
        prompts = [row["prompt"] for row in rows]
        samples = sample(model, tokenizer, prompts, max_new_tokens=settings.max_new_tokens, seed=seed, **scaling)
    texts = samples.texts(tokenizer)
    gold = [TASKS[row["task"]].gold_reward(row["prompt"], text) for row, text in zip(rows, texts, strict=True)]
    return np.array(gold), samples


def _labelled(
    rows: list[dict[str, Any]], policy: Policy, tokenizer: PreTrainedTokenizerBase, settings: LabSettings, seed: int
) -> Iterator[dict[str, Any]]:
    """Two completions of each prompt from the policy; the scores are gold rewards, the cluster is the task."""
    drawn = [_completions(rows, policy, tokenizer, settings, 1000 * (seed + 1) + turn) for turn in range(2 + REDRAWS)]
    rng = Random(f"labels {seed}")
    labels = DatasetSettings(noise=settings.noise, temperature=settings.temperature, seed=seed)
    for row, *completions in zip(rows, *drawn, strict=True):
        texts = list(dict.fromkeys(text for text in completions if text.strip()))[:2]
        if len(texts) < 2:
            continue
        task = TASKS[row["task"]]
        gold = [task.gold_reward(row["prompt"], text) for text in texts]
        if not prefers_first((gold[0], gold[1]), (len(texts[0].split()), len(texts[1].split())), labels, rng):
            texts.reverse()
            gold.reverse()
        yield {
            "prompt": row["prompt"],
            "chosen": texts[0],
            "rejected": texts[1],
            "score_chosen": gold[0],
            "score_rejected": gold[1],
            "cluster": TASK_NUMBER[task.name],
        }


def _completions(
    rows: list[dict[str, Any]], policy: Policy, tokenizer: PreTrainedTokenizerBase, settings: LabSettings, seed: int
) -> list[str]:
    texts = []
    with policy.plain_attention() as model:
        for start in range(0, len(rows), 500):
            prompts = [row["prompt"] for row in rows[start : start + 500]]
            samples = sample(model, tokenizer, prompts, max_new_tokens=settings.max_new_tokens, seed=seed + 7 * start)
            texts += samples.texts(tokenizer)
    return texts


def _data(path: Path, folder: Path, **columns: str) -> DataConfig:
    return DataConfig(
        path=str(path),
        columns=columns,
        max_length=128,
        eval_fraction=0.0,
        on_prefix_mismatch="drop",
        cache_dir=str(folder / "cache"),
    )
