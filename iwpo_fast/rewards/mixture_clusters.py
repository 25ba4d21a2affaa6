"""Clusters that are learnt with rewards: the gates of a mixture of Bradley-Terry models.

The mixture starts from the cells of k-means. Its gate has seen labels, and cells that have seen the label of a pair
give it away: heads in the cells of a single gate are right about held-out labels that are noise. So there is a gate for
each fold, from the labels of the other folds. Only the abstract of IWPO is public; this is the project's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from iwpo_fast.config import ClusterConfig, RewardConfig
from iwpo_fast.config_checks import check_reward_settings
from iwpo_fast.rewards.blocks import Floats, Ints
from iwpo_fast.rewards.checks import check_features
from iwpo_fast.rewards.clusters import Clusters, GatedClusters, fit_clusters, merge_small, sample_rows, unit
from iwpo_fast.rewards.mixture import LabelledPrompts, Mixture, fit_mixture
from iwpo_fast.rewards.mixture_choice import Trial, best, held_out_trials
from iwpo_fast.rewards.mixture_inputs import Inputs, read_inputs
from iwpo_fast.rewards.pair_table import PairFeatures
from iwpo_fast.rewards.scores import folds_for

Report = dict[str, Any]


def cluster_prompts(
    features: PairFeatures, settings: ClusterConfig, rewards: RewardConfig, *, seed: int
) -> tuple[Clusters, Ints, Report]:
    """Clusters by the method of the settings, the cluster [M] int64 of every prompt, and a report, empty for k-means.

    Arguments and errors are those of `fit_mixture_clusters`; k-means reads neither labels nor `rewards`.
    """
    if settings.method == "kmeans":
        clusters = fit_clusters(features.prompt, _counts(features), settings, seed=seed)
        return clusters, clusters.assign(features.prompt), {}
    clusters, report = fit_mixture_clusters(features, settings, rewards, seed=seed)
    fold = folds_for(features, len(features.prompt), rewards, seed)
    return clusters, clusters.assign(features.prompt, fold), report


def fit_mixture_clusters(
    features: PairFeatures, settings: ClusterConfig, rewards: RewardConfig, *, seed: int
) -> tuple[Clusters, Report]:
    """Clusters of a mixture, or those of k-means where the mixture predicts held-out labels no better.

    Penalties are those of the least held-out loss over the folds. The mixture is taken where that is lower than the
    loss of heads in the cells of k-means, and than that of a single head, by more than a standard error, where every
    prompt counts once, and where more than one cluster is left of it. Gates are fitted on `settings.fit_prompts` random
    prompts at most.

    Args:
        features: with the pairs, whose labels are learnt from.
        rewards: says what heads read of a response, and how many folds they have.
        seed: of the sub-sample, of k-means++ and of the folds; it must be that of the heads.

    Returns:
        The clusters, and a report: `taken`, `held_out_gain` with its `standard_error` in nats per pair, and `trials`.

    Raises:
        ValueError: shapes do not fit, features are not finite, a setting cannot be, or folds lack pairs.
    """
    check_reward_settings(rewards)
    check_features(features, rewards)
    counts = _counts(features)
    by_kmeans = fit_clusters(features.prompt, counts, settings, seed=seed)
    rows = np.flatnonzero(counts)
    rows = rows[sample_rows(len(rows), settings.fit_prompts, seed)]
    inputs = read_inputs(features, rewards, by_kmeans, rows, seed=seed)
    trials = held_out_trials(inputs)
    mixture, rival = best(trials, ["mixture"]), best(trials, ["one head", "kmeans"])
    better = rival.losses - mixture.losses
    gain, error = float(better.mean()), float(better.std() / np.sqrt(len(inputs.fold)))
    clusters = by_kmeans
    if gain > error:
        gates, fold = gates_of(inputs, mixture), folds_for(features, len(features.prompt), rewards, seed)
        gates = without_small(gates, features.prompt, counts, fold, settings.min_pairs)
        clusters = gates if gates.count > 1 else by_kmeans
    return clusters, {
        "taken": clusters is not by_kmeans,
        "held_out_gain": gain,
        "standard_error": error,
        "trials": [{"kind": t.kind, **t.penalties._asdict(), "held_out_loss": t.loss} for t in trials],
    }


def _counts(features: PairFeatures) -> Ints:
    return features.table.pairs_per_prompt(len(features.prompt))


def gates_of(inputs: Inputs, trial: Trial) -> GatedClusters:
    """Gates of the mixtures of all folds, and of one that has seen all labels, under the same penalties."""
    whole = fit_mixture(inputs.examples, inputs.start(), trial.penalties)
    mixtures = [*(aligned(mixture, whole, inputs.examples) for mixture in trial.mixtures), whole]
    return GatedClusters(
        mean=inputs.mean,
        centroids=np.stack([m.gate.astype(np.float32) @ inputs.basis.T for m in mixtures]),
        merged=np.arange(len(whole.bias)),
        offset=np.stack([m.bias.astype(np.float32) for m in mixtures]),
    )


def aligned(mixture: Mixture, whole: Mixture, examples: LabelledPrompts) -> Mixture:
    """With experts in the order in which most prompts have the same number as in `whole`."""
    count = len(whole.bias)
    together = np.zeros((count, count))
    np.add.at(together, (whole.assign(examples.prompts), mixture.assign(examples.prompts)), 1)
    order = linear_sum_assignment(together, maximize=True)[1]
    return Mixture(mixture.gate[order], mixture.bias[order], mixture.shared, mixture.residuals[order])


def without_small(gates: GatedClusters, prompts: Floats, counts: Ints, fold: Ints, min_pairs: int) -> GatedClusters:
    """Small clusters join those whose gates, over all pairs, have the nearest direction."""
    pairs = np.zeros(len(gates.merged))
    np.add.at(pairs, gates.cells(prompts, fold), counts)
    merged = merge_small(unit(gates.centroids[-1]), pairs, min_pairs)
    return GatedClusters(gates.mean, gates.centroids, merged, gates.offset)
