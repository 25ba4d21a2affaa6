"""Groups of prompts, how far rewards can be compared across them, and prompts of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from iwpo_fast.report.charts.frame import FIRST, MUTED, SECOND, chart, height_of, named_lines
from iwpo_fast.report.html import Html, beside, folded, joined, table, tag, terms
from iwpo_fast.report.numbers import count, decimal, percent
from iwpo_fast.report.passages import passage
from iwpo_fast.report.run_files import RunFiles, text_of
from iwpo_fast.words import several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Clusters and their overlap"
NEEDS = "weigh"
PROMPTS, MOST = 3, 24
"""Prompts shown of a cluster, and clusters drawn and shown."""

TERMS = {
    "cluster": "Prompts whose hidden states are alike. Rewards are calibrated within each, because a reward says only "
    "which of two answers to one prompt is better, not how good it is beside answers to other prompts.",
    "overlap": "Probability that a rejected answer has more reward than a chosen one, both drawn at random (1 − AUC). "
    "One half is chance; less is better.",
    "across": "The same with rejected answers of all clusters: what comparing rewards across clusters costs, before "
    "and after calibration.",
}


def body(run: RunFiles) -> Html:
    rows = [row for row in run.rewards()["clusters"] if row["pairs"]]
    header = ["cluster", "pairs", "share", "overlap within", "across, before", "across, after"]
    total = sum(row["pairs"] for row in rows)
    return joined(
        [
            tag("div", _sizes(rows[:MOST]), _overlaps(rows[:MOST]), class_="charts"),
            beside(table(header, (_cells(row, total) for row in rows)), terms(TERMS)),
            *_examples(run, [row["cluster"] for row in rows[:MOST]]),
        ]
    )


def _sizes(rows: list[dict[str, Any]]) -> Html:
    names = _names(rows)

    def draw(axes: Axes) -> None:
        axes.barh(range(len(rows)), [row["pairs"] for row in rows], height=0.6, color=FIRST)
        axes.set(xlabel="pairs")
        named_lines(axes, names)

    says = "; ".join(f"cluster {row['cluster']}: {several(row['pairs'], 'pair')}" for row in rows)
    title = "Training pairs of each cluster."
    return chart("cluster-sizes", title, says, draw, height=height_of(names), names=names)


def _overlaps(rows: list[dict[str, Any]]) -> Html:
    names = _names(rows)
    before, after = ([row[f"overlap_{when}"] for row in rows] for when in ("before", "after"))

    def draw(axes: Axes) -> None:
        place = range(len(rows))
        axes.axvline(0.5, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.hlines(place, before, after, color=MUTED, linewidth=1)
        axes.plot(before, place, "D", color=SECOND, markersize=5)
        axes.plot(after, place, "o", color=FIRST, markersize=7)
        axes.set(xlabel="overlap across clusters")
        named_lines(axes, names)

    says = "; ".join(
        f"cluster {row['cluster']}: {decimal(row['overlap_before'])} before, {decimal(row['overlap_after'])} after"
        for row in rows
    )
    title = "Overlap with the rejected answers of all clusters, before (diamond) and after calibration. Dashed: chance."
    return chart("cluster-overlap", title, says, draw, height=height_of(names), names=names)


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return [f"cluster {row['cluster']}" for row in rows]


def _cells(row: dict[str, Any], total: int) -> list[str]:
    overlaps = (decimal(row[name]) for name in ("overlap", "overlap_before", "overlap_after"))
    return [f"cluster {row['cluster']}", count(row["pairs"]), percent(row["pairs"] / total), *overlaps]


def _examples(run: RunFiles, clusters: list[int]) -> Iterator[Html]:
    """The first prompts of each cluster."""
    pairs = run.weighted
    of_labelled = pairs.cluster[pairs.labelled]
    shown = {k: pairs.labelled[of_labelled == k][:PROMPTS].tolist() for k in clusters}
    rows = run.weighted_rows([number for numbers in shown.values() for number in numbers])
    for cluster, numbers in shown.items():
        prompts = np.unique([text_of(rows[number]["prompt"]) for number in numbers])
        yield folded(f"Prompts of cluster {cluster}", *(passage("prompt", str(text)) for text in prompts))
