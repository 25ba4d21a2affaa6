"""Reads a file, scores its completions, and writes it with the scores beside them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.command_config import ScoreConfig
from iwpo_fast.data.as_chat import for_model
from iwpo_fast.data.columns import check_mapping
from iwpo_fast.data.messages import check_is_text
from iwpo_fast.data.places import Place
from iwpo_fast.data.records import Records, Source, read_all
from iwpo_fast.limits import check_limits
from iwpo_fast.models.pretrained import model_location
from iwpo_fast.models.reward_head import has_reward_head
from iwpo_fast.paths import expanded, reward_model_folder
from iwpo_fast.rewards.feature_reader import FeatureReader
from iwpo_fast.rewards.learnt_rewards import Scores
from iwpo_fast.rewards.own_reward import TOKENS_PER_BATCH, OwnReward
from iwpo_fast.rewards.reward_model import RewardModel
from iwpo_fast.scoring.output import check_output, write
from iwpo_fast.scoring.texts import LISTS, Texts, texts_of
from iwpo_fast.terminal import escaped
from iwpo_fast.world import World

ADDED = {
    "chosen": ("score_chosen", "spread_chosen"),
    "rejected": ("score_rejected", "spread_rejected"),
    "first": ("score_first", "spread_first"),
    "second": ("score_second", "spread_second"),
    "completion": ("score", "spread"),
    "messages": ("score", "spread"),
    **dict.fromkeys(LISTS, ("scores", "spreads")),
}
"""Columns of scores and spreads, by the column of the completions."""


def score_file(config: ScoreConfig) -> None:
    """Write `config.output`: the rows of `config.data` with the columns `ADDED`, and `cluster`.

    Raises:
        ValueError: one sentence on what is wrong with configuration, reward model or data, and what to do.
    """
    check_limits(config)
    output = check_output(config.output, config.data.path)
    world = World.start(config.device)
    if world.size > 1:
        raise ValueError("iwpo score runs in one process: start it without torchrun, with a part of the data each.")
    is_policy = _is_policy(config.reward_model)
    score = _by_policy(config, world) if is_policy else _by_reward_model(config, world)
    place = Place(config.data.path, config.data.split, config.data.name)
    records, source = read_all(place, limit=config.data.limit)
    texts = _texts(records, source, config)
    if config.trust_remote_code:
        print("trust_remote_code is true: code that the language model brings is run")
    scores = score(texts)
    added = _added(texts, scores)
    _say(records, texts, scores, added)
    if not is_policy:
        print("scores are log-odds: compare them within a prompt")
    write(output, [record | columns for record, columns in zip(records.values(), added, strict=True)])
    print(f"{len(records):,} rows are in {escaped(str(output))}")


def _is_policy(reward_model: str) -> bool:
    """Whether it is a policy that was trained with a reward head."""
    return has_reward_head(Path(model_location(reward_model)))


def _by_reward_model(config: ScoreConfig, world: World) -> Callable[[Texts], Scores]:
    model, data = RewardModel.load(reward_model_folder(config.reward_model)), config.data

    def score(texts: Texts) -> Scores:
        trusted = config.trust_remote_code
        reader = FeatureReader.load(model.record, world, config.language_model, trust_remote_code=trusted)
        with _cache(data.cache_dir) as cache:
            reader = reader.with_options(config.tokens_per_batch, cache, data.on_prefix_mismatch, data.on_text_left_out)
            rows = for_model(texts.rows, reader.tokenizer, data.as_chat, None)
            return model.score_rows(rows, reader, texts.of)

    return score


def _by_policy(config: ScoreConfig, world: World) -> Callable[[Texts], Scores]:
    """Rewards of the policy itself, which have no spread, and no clusters."""
    if config.language_model is not None:
        raise ValueError(
            f"language_model is {config.language_model} but reward_model {config.reward_model} is a policy with a "
            "reward head, which reads its own hidden states: leave it out."
        )
    data = config.data
    given = {name: getattr(data, name) for name in ("on_prefix_mismatch", "on_text_left_out")}

    def score(texts: Texts) -> Scores:
        policy = OwnReward.load(
            config.reward_model,
            device=str(world.device),
            tokens_per_batch=config.tokens_per_batch or TOKENS_PER_BATCH,
            setting="reward_model",
            trust_remote_code=config.trust_remote_code,
        )
        rows = for_model(texts.rows, policy.tokenizer, data.as_chat, None)
        policies = {name: value for name, value in given.items() if value is not None}
        with _cache(data.cache_dir) as cache:
            found = policy.score_rows(rows, cache, texts.of, **policies)
        members = found[..., None]
        return Scores(found, np.full_like(found, np.nan), members, members, np.full(found.shape, -1))

    return score


def _texts(records: Records, source: Source, config: ScoreConfig) -> Texts:
    title = source.numbering.title
    check_mapping(config.data.columns, source.columns, title)
    check_is_text(source.columns, title)
    texts = texts_of(records, source.numbering, config.data)
    for line in texts.lines:
        print(f"{title}: {line}")
    if not len(texts.rows):
        raise ValueError(f"No row of {title} has completions that continue one prompt: correct the data.")
    return texts


def _added(texts: Texts, scores: Scores) -> list[dict[str, Any]]:
    """The new columns of every row of the file; None stands for what has no score."""
    cluster = np.full(len(texts.columns), -1)
    np.maximum.at(cluster, texts.of, scores.cluster.max(axis=1))
    found: list[dict[str, Any]] = [{"cluster": int(k) if k >= 0 else None} for k in cluster]
    for which, values in enumerate((scores.score, scores.spread)):
        for row, columns in zip(found, texts.of_file(values), strict=True):
            for name, of_column in columns.items():
                given = [None if np.isnan(value) else float(value) for value in of_column]
                row[ADDED[name][which]] = given if name in LISTS else given[0]
    return found


def _say(records: Records, texts: Texts, scores: Scores, added: list[dict[str, Any]]) -> None:
    known = scores.score[~np.isnan(scores.score)]
    print(f"scores: mean {known.mean():.3f}, standard deviation {known.std():.3f}")
    absent = sum(int(np.isnan(values).sum()) for row in texts.of_file(scores.score) for values in row.values())
    if absent:
        print(f"{absent:,} completions have no score: they are too long, or do not continue their prompt")
    apart = sum(not columns for columns in texts.columns)
    if apart:
        print(f"{apart:,} rows have no score: their completions do not continue one prompt")
    replaced = sorted(
        {name for record, row in zip(records.values(), added, strict=True) for name in record.keys() & row}
    )
    if replaced:
        print(f"columns of the data are replaced in the output: {', '.join(map(escaped, replaced))}")


@contextmanager
def _cache(folder: str | None) -> Iterator[str]:
    """A folder for features: the given one, which stays, or one that goes with the body."""
    if folder is not None:
        yield str(expanded(folder))
        return
    with tempfile.TemporaryDirectory() as made:
        yield made
