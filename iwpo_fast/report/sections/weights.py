"""What was done to the pairs: weights, labels and drawn pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from iwpo_fast.importance.effects import Effects, effect_lines, effects_of
from iwpo_fast.report.charts.histogram import histogram
from iwpo_fast.report.html import Html, beside, joined, note, paragraph, table, tag, terms
from iwpo_fast.report.numbers import count, decimal, percent
from iwpo_fast.report.run_files import RunFiles, Weighted

TITLE = "Weights and labels"
NEEDS = "weigh"

TERMS = {
    "weight": "How much a pair counts in the loss{times}. Large where the better answer "
    "is one that the target policy would give, and rewards say that it is the better one.",
    "effective sample size": "(Σw)²/Σw² over the number of pairs: as if so many pairs were there with equal weights.",
    "label smoothing": "Probability that the label is the wrong way round, given label and rewards. The loss takes the "
    "pair turned round with that probability; above one half the label is taken for wrong.",
    "drawn pairs": "Pairs among all candidates of a prompt that nobody labelled, drawn by importance.",
}


def body(run: RunFiles) -> Html:
    pairs, report = run.weighted, run.weights()
    effects = _effects(pairs)
    header = ["pairs of", "pairs", "trust", "effective sample size", "least weight", "most weight", "label smoothing"]
    rows = (
        [
            *(f"cluster {row['cluster']}", count(row["pairs"]), decimal(row["trust"], 2), percent(row["ess"])),
            *(decimal(row["smallest"], 2), decimal(row["largest"], 2), decimal(row["label_smoothing"])),
        ]
        for row in report["clusters"]
    )
    column = run.weight_column
    weights, *others = effect_lines(effects)
    named = [weights] if column is None else [f"{what}: {share}" for share, what in sample_sizes(run)]
    lines = tag("ul", *(tag("li", line) for line in [*named, *others]))
    times = "; the mean is 1" if column is None else f": the method's weight, of mean 1, times your column {column}"
    meanings = TERMS | {"weight": TERMS["weight"].format(times=times)}
    in_table = [] if column is None else [paragraph(f"By cluster, weights of the method without your column {column}:")]
    charts = tag("div", *_charts(pairs, column), class_="charts")
    return joined([lines, charts, *in_table, beside(table(header, rows), terms(meanings))])


def sample_sizes(run: RunFiles) -> Iterator[tuple[str, str]]:
    """The effective sample size in percent and of what: of the method's weights, and times those of the data."""
    method, column = percent(run.manifest.result("weigh")["ess"]), run.weight_column
    if column is None:
        yield method, "effective sample size"
        return
    yield method, "effective sample size of the weights of the method"
    yield percent(_effects(run.weighted)["ess"]), f"times your column {column}"


def _effects(pairs: Weighted) -> Effects:
    return effects_of(pairs.weight, pairs.label_smoothing, pairs.drawn > 0)


def _charts(pairs: Weighted, column: str | None) -> Iterator[Html]:
    weight, smoothing = pairs.weight[pairs.labelled], pairs.label_smoothing[pairs.labelled]
    if np.ptp(weight) > 0:
        line = "the mean, 1" if column is None else f"1. Weights of the method times your column {column}"
        title = f"Weights of the labelled pairs. Dashed: {line}."
        yield histogram("weights", title, weight, named="weight", line=1.0)
    else:
        yield note("All labelled pairs have the same weight, so there is no histogram of weights.")
    if np.ptp(smoothing) > 0:
        title = "Label smoothing of the labelled pairs. Right of the dashed line a label is taken for wrong."
        yield histogram("labels", title, smoothing, named="probability that the label is wrong", line=0.5)
    else:
        yield note("All labels are smoothed alike, or not at all, so there is no histogram of them.")
