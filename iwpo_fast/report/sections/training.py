"""Learning curves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from iwpo_fast.report.charts.curve import Curve, curve_chart
from iwpo_fast.report.html import Html, joined, note, paragraph, tag, terms
from iwpo_fast.report.run_files import RunFiles
from iwpo_fast.words import several

TITLE = "Learning curves"
NEEDS = "weigh"

CURVES = {
    "loss": ("Loss, mean over pairs with their weights and labels.", "loss", None),
    "rewards/accuracies": ("Accuracy. Dashed: chance.", "accuracy", 0.5),
    "rewards/margins": (
        "Margin: implicit reward of the better minus that of the other answer.",
        "margin, log-odds",
        0.0,
    ),
    "grad_norm": ("Norm of the gradient before it is clipped.", "gradient norm", None),
}
"""Title, axis and a value that means something, of what is logged."""
TERMS = {
    "thin and thick": "Thin is what was logged, thick its running mean; points are held-out pairs.",
    "loss, held out": "Held-out pairs keep the weights and labels of your data, and have none of the method's, so "
    "their loss is on another scale than that of training pairs that the method has weighed and smoothed.",
}


def body(run: RunFiles) -> Html:
    lines = run.metrics()
    charts = list(_charts(lines))
    if not charts:
        gone = "The file train/metrics.jsonl of this run is gone or empty, so there are no curves."
        return note(gone if run.done("train") else "The training has logged nothing yet.")
    at_work = (
        []
        if run.done("train")
        else [note(f"The training is not finished: {several(lines[-1]['step'], 'step')} so far.")]
    )
    done = f"{several(max(line['step'] for line in lines), 'step')}."
    return joined([*at_work, paragraph(done), tag("div", *charts, class_="charts"), terms(TERMS)])


def _charts(lines: list[dict[str, Any]]) -> Iterator[Html]:
    for name, (title, named, line) in CURVES.items():
        training, held_out = _curve(lines, name), _curve(lines, f"eval_{name}")
        if len(training[0]):
            yield curve_chart(
                f"curve-{named.split()[0].rstrip(',')}", title, training, held_out, named=named, line=line
            )


def _curve(lines: list[dict[str, Any]], name: str) -> Curve:
    """Steps and values of what was logged and finite; null stands for what was not."""
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return steps, values
