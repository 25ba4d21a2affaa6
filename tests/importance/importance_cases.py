"""Rewards for the tests of importance weights."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from iwpo_fast.config import ExperimentalConfig, WeightConfig
from iwpo_fast.config_checks import READ_BY
from iwpo_fast.importance import Candidates, PairRewards

seeded = settings(max_examples=100, deadline=None, derandomize=True)
SMOOTH = ["irpss", "density_ratio", "rejection", "madpo", "none"]
METHODS = [*SMOOTH, "selective"]
"""Of these, `selective` alone jumps: a tiny change of a reward can leave a pair out."""
BASELINES = ["cluster", "group", "shrunk"]
FULL = WeightConfig(tau=2.0, gamma=2.0, soft_labels=0.75)
"""Both terms of the weights, and soft labels."""
PURE = WeightConfig(tau=2.0, gamma=0.0, truncate=np.inf, soft_labels=0.0)
"""Importance alone."""
EXAMPLES = [FULL, PURE, WeightConfig(), WeightConfig(method="irpss")]


def make_rewards(seed: int, *, pairs: int = 600, clusters: int = 3, size: float = 1.5) -> PairRewards:
    """Pairs of random rewards, those of the chosen completions higher by 1 on average; all clusters occur."""
    rng = np.random.default_rng(seed)
    cluster = np.concatenate([np.arange(clusters), rng.integers(0, clusters, pairs - clusters)])
    chosen, rejected = size * rng.normal(size=(2, pairs))
    return PairRewards(chosen + 1.0, rejected, cluster, rng.uniform(size=clusters))


def make_candidate_rewards(seed: int, *, prompts: int = 100, of_each: int = 4, clusters: int = 2) -> PairRewards:
    """The best completion of each prompt against each of the others, with all completions as candidates."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(prompts, of_each)) + 0.5 * rng.normal(size=(prompts, 1))
    cluster = rng.integers(0, clusters, prompts)
    ordered = np.sort(reward, axis=1)
    prompt = np.repeat(np.arange(prompts), of_each - 1)
    return PairRewards(
        chosen=ordered[prompt, -1],
        rejected=ordered[:, :-1].ravel(),
        cluster=cluster[prompt],
        trust=np.ones(clusters),
        prompt=prompt,
        candidates=Candidates(reward.ravel(), np.repeat(np.arange(prompts), of_each)),
    )


@st.composite
def pair_rewards(draw: st.DrawFn, largest: float = 1e4) -> PairRewards:
    """Up to 30 pairs in up to 4 clusters, some perhaps empty; rewards up to `largest` either way."""
    pairs = draw(st.integers(1, 30))
    clusters = draw(st.integers(1, 4))
    reward = st.one_of(st.floats(-largest, largest), st.sampled_from([-largest, 0.0, largest]))
    rewards = st.lists(reward, min_size=pairs, max_size=pairs)
    return PairRewards(
        chosen=np.array(draw(rewards)),
        rejected=np.array(draw(rewards)),
        cluster=np.array(draw(st.lists(st.integers(0, clusters - 1), min_size=pairs, max_size=pairs))),
        trust=np.array(draw(st.lists(st.floats(0, 1), min_size=clusters, max_size=clusters))),
        noise=draw(st.one_of(st.none(), st.floats(0, 2))),
    )


def cluster_means(values: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Mean of the values of each cluster that occurs."""
    return np.array([values[cluster == k].mean() for k in np.unique(cluster)])


def changed(form: WeightConfig, **options: Any) -> WeightConfig:
    """A form with other settings, experimental ones among them."""
    inner = {name: options.pop(name) for name in vars(form.experimental) if name != "method" and name in options}
    return replace(form, experimental=replace(form.experimental, **inner), **options)


def by_method(method: str, form: WeightConfig = FULL, **options: Any) -> WeightConfig:
    """A form with another method, which leaves out what that does not read."""
    unread = set().union(*READ_BY.values()) - READ_BY[method]
    asked = asdict(changed(form, **options))
    inner = {name: value for name, value in asked.pop("experimental").items() if f"experimental.{name}" not in unread}
    usual = method in ("irpss", "none")
    asked["method"], inner["method"] = (method, None) if usual else ("irpss", method)
    kept = {name: value for name, value in asked.items() if name not in unread}
    return WeightConfig(**kept, experimental=ExperimentalConfig(**inner))
