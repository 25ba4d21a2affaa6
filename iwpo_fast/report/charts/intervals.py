"""Shares with their intervals, one to a line, beside what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from iwpo_fast.report.charts.frame import FIRST, MUTED, SECOND, chart, height_of, in_percent, named_lines
from iwpo_fast.report.html import Html
from iwpo_fast.report.numbers import count, interval, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 24
"""Lines of a chart."""


class Line(NamedTuple):
    """A share, its 95 % interval or NaN twice, of how many pairs it is, and what it was before, if that is shown."""

    name: str
    share: float
    low: float
    high: float
    pairs: int
    before: float | None = None


def interval_chart(name: str, title: str, lines: Sequence[Line], *, named: str) -> Html:
    """Share and interval of each line; the first `MOST` of them.

    Args:
        named: what the shares are of, for the axis.
    """
    lines = lines[:MOST]
    names = [f"{line.name} ({count(line.pairs)})" for line in lines]

    def draw(axes: Axes) -> None:
        place = range(len(lines))
        axes.axvline(0.5, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.hlines(place, [line.low for line in lines], [line.high for line in lines], color=FIRST, linewidth=2.4)
        axes.plot([line.share for line in lines], place, "o", color=FIRST, markersize=7)
        if before := [(line.before, at) for at, line in enumerate(lines) if line.before is not None]:
            axes.plot(*zip(*before, strict=True), "D", color=SECOND, markersize=5)
        axes.set(xlabel=named)
        named_lines(axes, names)
        in_percent(axes.xaxis)

    says = "; ".join(f"{line.name}: {percent(line.share)}, {interval(line.low, line.high)}" for line in lines)
    return chart(name, title, says, draw, height=height_of(names), names=names)
