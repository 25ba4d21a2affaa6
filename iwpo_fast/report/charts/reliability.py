"""How often one is right beside how often one says that one will be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iwpo_fast.evaluation.calibration_error import BINS, reliability_curve
from iwpo_fast.evaluation.preference import preference_accuracy
from iwpo_fast.report.charts.frame import FIRST, INK, chart, in_percent
from iwpo_fast.report.html import Html
from iwpo_fast.report.numbers import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAIRS_OF_A_BIN = 20
"""At least, as intervals of fewer say nothing."""


def reliability_chart(name: str, title: str, margins: np.ndarray) -> Html:
    """The calibration curve of margins float64 [n] in log-odds, with a 95 % interval of each point."""
    said, right, pairs = reliability_curve(margins, min(BINS, max(1, len(margins) // PAIRS_OF_A_BIN)))
    ends = np.array([preference_accuracy(part * total, total)[1:] for part, total in zip(right, pairs, strict=True)])

    def draw(axes: Axes) -> None:
        axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.vlines(said, ends[:, 0], ends[:, 1], color=FIRST, linewidth=2)
        axes.plot(said, right, "o-", color=FIRST, markersize=6, linewidth=1)
        axes.set(xlabel="said: probability of being right", ylabel="seen: share that is right")
        axes.set_xlim(0.49, max(0.6, said.max() + 0.02))
        in_percent(axes.xaxis)
        in_percent(axes.yaxis)

    points = zip(said, right, strict=True)
    return chart(name, title, "; ".join(f"said {percent(a)}, right {percent(b)}" for a, b in points), draw)
