"""Where EM starts, because from policies that are alike, or drawn at random, it does not move.

Annotators are clustered by what they prefer: the mean over their votes of the reference's hidden states of the chosen
minus those of the rejected completion, in its first K directions. The paper's authors start from clusters that they
bring along; how these were made is not in their code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from iwpo_fast.annotators.posterior import Floats, Ints
from iwpo_fast.config import TrainConfig
from iwpo_fast.data import Rows, cache_folder, tokenise
from iwpo_fast.data.annotators import ANNOTATOR
from iwpo_fast.data.strict_json import loads
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.pretrained import reason_of
from iwpo_fast.paths import expanded
from iwpo_fast.rewards import PairFeatures
from iwpo_fast.rewards.features import pair_features
from iwpo_fast.rewards.kmeans import choose_backend, kmeans
from iwpo_fast.world import World

FIRM = 0.9
"""Share of an annotator in the type of its cluster; the rest is spread over the others, so that votes can move it."""


def clustered(config: TrainConfig, rows: Rows, annotators: int, world: World) -> Floats:
    """γ [A, K] by clusters of annotators, from one pass of the reference over the pairs. All ranks call it.

    Args:
        rows: with the column `annotator`, the place of each row's among all A.
    """
    assert config.types is not None
    tokenizer = load_tokenizer(config.model, rows.texts())
    with world.main_first():
        pairs, _ = tokenise(rows.without_candidates(), tokenizer, config.data)
    policy = load_policy(config.model, tokenizer, world, seed=config.seed, max_length=config.data.max_length)
    features = pair_features(
        policy,
        pairs,
        world,
        cache_folder(config.data),
        tokens_per_batch=config.optim.tokens_per_batch,
        workers=config.data.workers,
    )
    tastes = tastes_of(features, pairs.columns[ANNOTATOR].astype(np.int64), annotators)
    return shares_of(world.from_main(clusters_of(tastes, config.types.count, config.seed)), config.types.count)


def tastes_of(features: PairFeatures, annotator: Ints, annotators: int) -> Floats:
    """[A, d], mean difference of features of chosen and rejected completions of each annotator; 0 without votes."""
    table, response = features.table, np.asarray(features.response, dtype=np.float64)
    total = np.zeros((annotators, response.shape[1]))
    np.add.at(total, annotator, response[table.chosen] - response[table.rejected])
    return total / np.maximum(np.bincount(annotator, minlength=annotators), 1)[:, None]


def clusters_of(tastes: Floats, count: int, seed: int) -> Ints:
    """int64 [A], by K-means in the first K principal directions, where types differ most; the largest is 0."""
    centred = tastes - tastes.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    points = (centred @ directions[:count].T).astype(np.float32)
    centroids = kmeans(points, min(count, len(points)), backend=choose_backend("auto"), seed=seed)
    distance = np.square(points[:, None] - centroids).sum(axis=2)
    found = distance.argmin(axis=1)
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    return np.argsort(order)[found]


def shares_of(cluster: Ints, count: int) -> Floats:
    """γ [A, K] that is near to the clusters."""
    if count == 1:
        return np.ones((len(cluster), 1))
    rest = (1 - FIRM) / (count - 1)
    return np.where(np.arange(count) == cluster[:, None], FIRM, rest)


def given(path: str, names: Sequence[str], count: int) -> Floats:
    """γ [A, K] from a file of JSON.

    Raises:
        ValueError: it cannot be read, or does not say a type of every annotator, or shares of all types.
    """
    try:
        said = loads(expanded(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"types.start {path} cannot be read ({reason_of(error)}): give a file of JSON.") from error
    if not isinstance(said, dict):
        raise ValueError(f"types.start {path} holds no object of JSON: give annotators their types there.")
    if missing := [name for name in names if name not in said]:
        raise ValueError(
            f"types.start {path} has no type of the annotator {missing[0]} (the first of {len(missing)}): give all."
        )
    return np.stack([_shares(path, name, said[name], count) for name in names])


def _shares(path: str, name: str, value: Any, count: int) -> Floats:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count:
        return shares_of(np.array([value]), count)[0]
    numbers = isinstance(value, list) and all(type(each) in (int, float) and 0 <= each <= 1 for each in value)
    if numbers and len(value) == count and abs(sum(value) - 1) < 1e-6:
        return np.array(value, dtype=np.float64)
    raise ValueError(
        f"types.start {path} gives the annotator {name} {json.dumps(value)[:40]}: make it a type from 0 to "
        f"{count - 1}, or a list of {count} shares whose sum is 1."
    )
