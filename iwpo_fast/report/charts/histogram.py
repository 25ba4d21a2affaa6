"""How often values occur."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iwpo_fast.report.charts.frame import FIRST, INK, chart
from iwpo_fast.report.html import Html
from iwpo_fast.report.numbers import decimal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40


def histogram(name: str, title: str, values: np.ndarray, *, named: str, line: float, of: str = "pairs") -> Html:
    """Histogram of float64 [n], of which one or more are finite, with a line at a value that means something."""
    from matplotlib.ticker import MaxNLocator

    values = values[np.isfinite(values)]
    counts, edges = np.histogram(values, bins=BINS, range=(min(values.min(), line), max(values.max(), line)))
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=FIRST)
        axes.axvline(line, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set(xlabel=named, ylabel=of)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.grid(visible=False, axis="x")

    says = f"{title} Median {decimal(middle)}, 5 to 95 %: {decimal(low)} to {decimal(high)}."
    return chart(name, title, says, draw)
