"""What is logged over the steps of a training, with the held-out pairs beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iwpo_fast.report.charts.frame import FIRST, INK, SECOND, chart
from iwpo_fast.report.html import Html
from iwpo_fast.report.numbers import decimal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[np.ndarray, np.ndarray]
"""Steps [n] and values [n]."""

MOST = 400
"""Points of a curve; more are averaged."""
SMOOTHED = 12
"""A thick line is the mean over this part of the whole, as one through so many."""


def curve_chart(name: str, title: str, training: Curve, held_out: Curve, *, named: str, line: float | None) -> Html:
    """Values of the training steps, thin as they are and thick as a running mean, and those of held-out pairs.

    Args:
        line: a value that means something, such as that of chance.
    """
    steps, values = _thinned(training)

    def draw(axes: Axes) -> None:
        if line is not None:
            axes.axhline(line, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(steps, values, color=FIRST, linewidth=0.8, alpha=0.45)
        axes.plot(steps, _smooth(values), color=FIRST, label="training")
        if len(held_out[0]):
            axes.plot(*_thinned(held_out), color=SECOND, marker="o", markersize=4, label="held out")
            axes.legend()
        axes.set(xlabel="step", ylabel=named)

    says = f"{title} Training from {decimal(values[0])} to {decimal(values[-1])}"
    if len(held_out[0]):
        says += f", held out from {decimal(held_out[1][0])} to {decimal(held_out[1][-1])}"
    return chart(name, title, f"{says}.", draw)


def _thinned(curve: Curve) -> Curve:
    """At most `MOST` points, means of as many neighbours each as can be."""
    parts = max(1, min(MOST, len(curve[0])))
    steps, values = (np.array([part.mean() for part in np.array_split(column, parts)]) for column in curve)
    return steps, values


def _smooth(values: np.ndarray) -> np.ndarray:
    """The running mean, over fewer values near the ends."""
    reach = len(values) // (2 * SMOOTHED)
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(values))
    return (total[last] - total[first]) / (last - first)
