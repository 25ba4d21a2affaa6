"""What the weights look like: effective sample sizes, histogram, and the pairs that count most."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.files import written_aside
from iwpo_fast.importance.types import PairRewards, PairWeights

BINS = 50
SHOWN = 100  # characters of a text on the terminal


def weight_report(
    weights: PairWeights,
    rewards: PairRewards,
    *,
    texts: Callable[[int], dict[str, str]] | None = None,
    largest: int = 10,
) -> dict[str, Any]:
    """Summary of the weights of P pairs, in values that JSON can hold; an infinite temperature becomes a string.

    Args:
        texts: the texts of a pair by its row; asked for the largest weights only.
        largest: how many of the largest weights to list; ties go to the earlier row.

    Returns:
        `pairs`: P. `tau`: temperature; None where the method has none. `ess`: effective sample size of all pairs, as a
        fraction, before resampling. `noise`: as `PairRewards` has it. `skipped`: fraction of the pairs with weight 0.
        `clusters`: a row for each cluster with pairs. `edges`, `counts`: histogram, B + 1 edges and B counts.
        `largest`: a row for each of the largest weights, largest first. `agreed`: as `PairWeights` has it.
    """
    weight = weights.weight
    assert len(weight) == len(rewards)
    counts, edges = np.histogram(weight, bins=BINS, range=(0.0, float(weight.max())))
    return {
        "pairs": len(weight),
        "tau": weights.tau if weights.tau is None or math.isfinite(weights.tau) else str(weights.tau),
        "ess": weights.ess,
        "noise": rewards.noise,
        "skipped": float(np.mean(weight == 0)),
        "clusters": _clusters(weights, rewards),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "largest": [
            {
                "pair": i,
                "cluster": int(rewards.cluster[i]),
                "weight": float(weight[i]),
                "label_smoothing": float(weights.label_smoothing[i]),
                "chosen_reward": float(rewards.chosen[i]),
                "rejected_reward": float(rewards.rejected[i]),
                "text": None if texts is None else texts(i),
            }
            for i in np.argsort(-weight, kind="stable")[:largest].tolist()
        ],
        "agreed": weights.agreed,
    }


def _clusters(weights: PairWeights, rewards: PairRewards) -> list[dict[str, Any]]:
    weight, cluster, size = weights.weight, rewards.cluster, weights.cluster_pairs
    smallest = np.full(rewards.clusters, np.inf)
    np.minimum.at(smallest, cluster, weight)
    largest = np.full(rewards.clusters, -np.inf)
    np.maximum.at(largest, cluster, weight)
    skipped = np.bincount(cluster, weight == 0, rewards.clusters)
    smoothing = np.bincount(cluster, weights.label_smoothing, rewards.clusters)
    return [
        {
            "cluster": k,
            "pairs": int(size[k]),
            "trust": float(rewards.trust[k]),
            "ess": float(weights.cluster_ess[k]),
            "smallest": float(smallest[k]),
            "largest": float(largest[k]),
            "skipped": float(skipped[k] / size[k]),
            "label_smoothing": float(smoothing[k] / size[k]),
        }
        for k in np.flatnonzero(size).tolist()
    ]


def report_lines(report: dict[str, Any]) -> list[str]:
    """The summary as lines for a terminal."""
    tau = "" if report["tau"] is None else f" | tau {float(report['tau']):.3g}"
    noise = "" if report["noise"] is None else f" | noise of rewards {report['noise']:.1%}"
    lines = ["{pairs:,} pairs | ess {ess:.1%} | skipped {skipped:.1%}".format(**report) + tau + noise]
    if report["agreed"]:
        cause = "the rewards tell no completion from another"
        if report["noise"]:
            cause = "the members of the ensemble agree"
        lines.append(f"{cause}: all weights are 1")
    lines.append("cluster     pairs  trust    ess     min     max  skipped  label smoothing")
    for row in report["clusters"]:
        lines.append(
            "{cluster:7d} {pairs:9,} {trust:6.2f} {ess:6.1%} {smallest:7.3f} {largest:7.3f} {skipped:8.1%} "
            "{label_smoothing:16.3f}".format(**row)
        )
    extremes = {row[end] for row in report["clusters"] for end in ("smallest", "largest")}
    for row in report["largest"] if len(extremes) > 1 else ():  # of equal weights none is large
        lines.append(
            "weight {weight:.2f} | pair {pair} of cluster {cluster} | label smoothing {label_smoothing:.2f} | "
            "rewards {chosen_reward:+.2f} {rejected_reward:+.2f}".format(**row)
        )
        lines += [f"  {name:8}  {one_line(text)}" for name, text in (row["text"] or {}).items()]
    return lines


def save_histogram(path: Path, report: dict[str, Any]) -> None:
    """Draw the histogram of the weights as a PNG; a kill leaves no half-written file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.add_subplot()
    axis.stairs(report["counts"], report["edges"], fill=True, color="#2471a3")
    axis.axvline(1.0, color="#7f8c8d", linewidth=1)
    axis.set(yscale="symlog", xlabel="weight (line: the mean, 1)", ylabel="pairs")
    title = "{pairs:,} pairs, effective sample size {ess:.1%}".format(**report)
    axis.set_title(title, loc="left", fontsize=10)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
