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
from iwpo_fast.data.unique import Responses
from iwpo_fast.demo.generate import DatasetSettings, prefers_first, read_jsonl, write_dataset, write_jsonl
from iwpo_fast.demo.tasks import TASKS
from iwpo_fast.demo.warmup import warm_up
from iwpo_fast.files import written_aside
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.reference import with_reference
from iwpo_fast.rewards.features import PairFeatures, pair_features
from iwpo_fast.sampling.store import merged, with_samples
from iwpo_fast.world import World
from lab.exact.rewards import Floats
from lab.language_model.sampling import Samples, sample
from lab.language_model.settings import LabSettings

TASK_NUMBER = {name: number for number, name in enumerate(TASKS)}
SUPERVISION_SEED = 1_000_000
FIRST_CANDIDATE = 500  # seeds of candidates are apart from those of the labelled completions
REDRAWS = 1  # for completions that are empty or equal; what is still no pair after that is left out


@dataclass(frozen=True)
class LabWorld:
    """What all arms of a seed share.

    Attributes:
        policy: the supervised policy, which is the reference.
        pairs: P of them, each of its own prompt, with their reference log-probs and the sampled completions.
        responses: the different ones of chosen, rejected and sampled completions.
        sampled: int64 [P, K], the responses that were sampled for each prompt, in the order of the draws.
        features: of prompts and responses, from the supervised policy.
        gold: float64 [P, 2], gold rewards in log-odds of chosen and rejected completions.
        task: int64 [P], task of each pair.
        test: held-out rows with `task` and `prompt`, every prompt `samples` times in a row.
        start: gold rewards of the supervised policy's completions of the held-out prompts.
        scale: float64 [tasks], standard deviation of the gold reward over these, within the task; 1 without any.
        cache: folder of tokens, log-probs and features.
    """

    seed: int
    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    pairs: Pairs
    responses: Responses
    sampled: NDArray[np.int64]
    features: PairFeatures
    gold: Floats
    task: NDArray[np.int64]
    test: list[dict[str, Any]]
    start: Floats
    scale: Floats
    cache: Path


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
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(supervised, trust_remote_code=False)
    alone = World.start("cpu")
    policy = load_policy(ModelConfig(path=str(supervised)), tokenizer, alone, seed=seed)
    labelled = folder / "pairs.jsonl"
    if not labelled.exists():
        with written_aside(labelled) as aside:
            write_jsonl(aside, _labelled(read_jsonl(data / "train.jsonl"), policy, tokenizer, settings, seed))
    rows, draws = read_jsonl(labelled), folder / "draws.jsonl"
    if not draws.exists():
        drawn = _draws(rows, policy, tokenizer, settings, 1000 * (seed + 1) + FIRST_CANDIDATE)
        with written_aside(draws) as aside:
            write_jsonl(aside, ({"row": i, "completions": texts} for i, texts in enumerate(drawn)))
    texts = [row["completions"] for row in read_jsonl(draws)]
    config = _data(labelled, folder)
    pairs, _ = tokenise(with_samples(read_rows(config)[0], merged(_records(texts))), tokenizer, config)
    responses = Responses.of(pairs)
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
        responses=responses,
        sampled=_sampled(pairs, responses, texts, settings.candidates),
        features=features,
        gold=pairs.scores[:, :, 0] / settings.temperature,
        task=pairs.columns["cluster"].astype(np.int64),
        test=test,
        start=start,
        scale=np.array([start[task == k].std() or 1.0 for k in range(len(TASKS))]),
        cache=cache,
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


def _draws(
    rows: list[dict[str, Any]], policy: Policy, tokenizer: PreTrainedTokenizerBase, settings: LabSettings, seed: int
) -> list[list[str]]:
    """The candidates that the policy gives for each prompt; as in the library, empty ones are left out."""
    drawn = [
        _completions(rows, policy, tokenizer, settings, seed + turn) for turn in range(settings.candidates + REDRAWS)
    ]
    return [[text for text in texts if text.strip()] for texts in zip(*drawn, strict=True)]


def _records(texts: list[list[str]]) -> list[dict[str, Any]]:
    unknown = dict.fromkeys(("ended", "log_mu", "log_model"))
    return [
        {"row": row, "draw": draw, "completion": text} | unknown
        for row, of_row in enumerate(texts)
        for draw, text in enumerate(of_row)
    ]


def _sampled(pairs: Pairs, responses: Responses, texts: list[list[str]], count: int) -> NDArray[np.int64]:
    """[P, count], by the rows of `responses`; a prompt with fewer draws has them again from the first on."""
    assert pairs.candidates is not None
    different = merged(_records(texts))
    known = {
        (int(pair), different[source]["completion"]): int(response)
        for pair, source, response in zip(
            pairs.candidates.pair, pairs.candidates.source, responses.candidates, strict=True
        )
    }
    found = []
    for pair, row in enumerate(pairs.row.tolist()):
        drawn = [known[pair, text] for text in texts[row] if (pair, text) in known] or [int(responses.chosen[pair])]
        found.append([drawn[draw % len(drawn)] for draw in range(count)])
    return np.array(found, dtype=np.int64)


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
