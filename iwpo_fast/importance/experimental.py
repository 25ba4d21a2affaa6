"""Alternatives to the defaults of IRPSS that measured no better: other baselines, and ratios of densities.

A baseline b is what the reward of a completion is compared with. The density ratios replace log a: they weigh a pair by
how well the rewards explain its label, after "Rejection via Learning Density Ratios" (Soen et al. 2024, arXiv
2405.18686) and its published code. There a classifier abstains; here the example is a pair, and its risk is that of the
reward model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from iwpo_fast.config import ExperimentalConfig
from iwpo_fast.importance.types import PairRewards

BISECTIONS = 60  # the interval shrinks to float64 resolution


def log_levels(rewards: PairRewards, baseline: Literal["cluster", "group", "shrunk"]) -> Callable[[float], np.ndarray]:
    """Baseline b of each pair, divided by τ, as a function of τ.

    - `cluster`: 0, because calibrated rewards are centred and weights are normalised per cluster;
    - `group`: log mean_j exp(r_j/τ) over the candidates of the prompt, so that exp(r/τ - b/τ) is the self-normalised
      importance of a candidate among them;
    - `shrunk`: the group's level drawn towards that of its cluster, κ group + (1 - κ) cluster, with the reliability
      κ = v_between / (v_between + v_within / m) of a mean of m candidates (`reliability`).

    Returns:
        A function from τ to float64 [P].

    Raises:
        ValueError: `group` or `shrunk` without at least two candidates for each pair's prompt.
    """
    if baseline == "cluster":
        return lambda tau: np.zeros(len(rewards))
    if rewards.candidates is None or rewards.prompt is None:
        raise ValueError(
            f"weights.experimental.baseline is {baseline}, but there are no candidates: set it to cluster, or score "
            "all completions."
        )
    of_pair, clusters = rewards.prompt, rewards.clusters
    reward, prompt = rewards.candidates
    prompts = int(of_pair.max()) + 1
    if np.bincount(prompt, minlength=prompts)[of_pair].min() < 2:
        raise ValueError(
            f"weights.experimental.baseline is {baseline}, but a pair's prompt has fewer than two candidates: set it "
            "to cluster, or score all completions of each prompt."
        )
    cluster_of_prompt = np.full(max(prompts, int(prompt.max()) + 1), -1)
    cluster_of_prompt[of_pair] = rewards.cluster
    used = cluster_of_prompt[prompt] >= 0
    reward, prompt = reward[used], prompt[used]
    if baseline == "group":
        return lambda tau: log_mean_exp(reward / tau, prompt, prompts)[of_pair]
    cluster = cluster_of_prompt[prompt]
    kappa = reliability(reward, prompt, cluster)[of_pair]

    def shrunk(tau: float) -> np.ndarray:
        group = log_mean_exp(reward / tau, prompt, prompts)[of_pair]
        level = log_mean_exp(reward / tau, cluster, clusters)[rewards.cluster]
        return kappa * group + (1 - kappa) * level

    return shrunk


def reliability(reward: np.ndarray, prompt: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Share of the spread between the prompts' mean rewards inside a cluster that chance does not explain.

    κ = v_between / (v_between + v_within / m) with the variance components of the one-way random-effects analysis of
    variance for groups of unequal size m (Searle, Casella and McCulloch 1992, section 3.6), per cluster.

    Args:
        reward: float64 [C].
        prompt: int64 [C], at least two candidates for each prompt that occurs.
        cluster: int64 [C], the same for all candidates of a prompt.

    Returns:
        float64 [largest prompt + 1] in [0, 1]; 0 for a prompt that does not occur.
    """
    count = np.bincount(prompt)
    present = count > 0
    mean = np.bincount(prompt, reward) / np.maximum(count, 1)
    of_prompt = np.zeros(len(count), dtype=np.int64)
    of_prompt[prompt] = cluster
    members = of_prompt[present]
    size = np.bincount(cluster)  # [G]
    groups = np.bincount(members, minlength=len(size))
    centre = np.bincount(cluster, reward) / np.maximum(size, 1)

    within = np.bincount(cluster, (reward - mean[prompt]) ** 2) / np.maximum(size - groups, 1)
    spread = np.bincount(members, count[present] * (mean[present] - centre[members]) ** 2, len(size))
    balance = size - np.bincount(members, count[present] ** 2, len(size)) / np.maximum(size, 1)
    excess = np.maximum(spread - (groups - 1) * within, 0.0)
    between = np.divide(excess, balance, out=np.zeros(len(size)), where=balance > 0)

    noise = within[of_prompt] / np.maximum(count, 1)
    total = between[of_prompt] + noise
    return np.divide(between[of_prompt], total, out=np.zeros(len(count)), where=present & (total > 0))


def log_ratio(rewards: PairRewards, settings: ExperimentalConfig) -> np.ndarray:
    """log ρ of each pair [P], up to a constant per cluster.

    It is -ℓ/λ under the KL divergence (`density_ratio`), and `log_alpha_ratio` under the α-divergence (`rejection`).
    """
    risk = pair_risk(rewards)
    if settings.method == "density_ratio":
        return -risk / settings.ratio_scale
    scale, alpha = settings.ratio_scale, settings.ratio_alpha
    return log_alpha_ratio(risk, rewards.cluster, rewards.clusters, scale=scale, alpha=alpha)


def pair_risk(rewards: PairRewards) -> np.ndarray:
    """ℓ = softplus(-Δ) of each pair [P]: the reward model's loss on the label, in nats."""
    return np.logaddexp(0.0, -rewards.gap)


def log_alpha_ratio(risk: np.ndarray, cluster: np.ndarray, clusters: int, *, scale: float, alpha: float) -> np.ndarray:
    """log of ρ = [(α-1)/2 · (b - ℓ/λ)]_+^{2/(α-1)}, the ratio under the α-divergence; -inf for a rejected pair.

    Bisection finds b for each cluster, so that the mean of ρ is 1.

    Args:
        risk: float64 [P], ℓ.
        cluster: int64 [P] in 0..clusters-1.
        scale: λ > 0.
        alpha: α > 1; at 3 the weight falls linearly with the risk.
    """
    scaled = risk / scale
    power = 2 / (alpha - 1)
    size = np.maximum(np.bincount(cluster, minlength=clusters), 1)
    low = np.full(clusters, np.inf)
    np.minimum.at(low, cluster, scaled)
    high = np.full(clusters, -np.inf)
    np.maximum.at(high, cluster, scaled)
    low[np.isinf(low)] = high[np.isinf(high)] = 0.0  # clusters without pairs
    high += power
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        with np.errstate(over="ignore"):
            ratio = (np.maximum(middle[cluster] - scaled, 0.0) / power) ** power
        above = np.bincount(cluster, ratio, clusters) / size >= 1
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    with np.errstate(divide="ignore"):
        return power * np.log(np.maximum(high[cluster] - scaled, 0.0) / power)


def log_mean_exp(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """log mean exp of the values of each group [groups]; 0 for a group without values."""
    count = np.bincount(group, minlength=groups)
    top = np.full(groups, -np.inf)
    np.maximum.at(top, group, values)
    top[count == 0] = 0.0
    total = np.bincount(group, np.exp(values - top[group]), groups)
    return top + np.log(np.where(count > 0, total, 1.0) / np.maximum(count, 1))
