"""Matplotlib's SVG inside a page: its colours are those of the page, in light and dark, and its ids are its own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from iwpo_fast.report.html import Html, tag
from iwpo_fast.report.numbers import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK, MUTED, GRID, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
"""What charts are drawn in; the page puts its own colours in their place."""
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", FIRST: "first", SECOND: "second"}

WIDTH, HEIGHT = 5.0, 2.7
"""Inches, by which letters can be read on a screen of 400 pixels."""

LETTER = 0.088
"""Inches of a letter, on the mean."""

STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
}
NOTHING = {"Creator": None, "Date": None, "Format": None, "Type": None}


def chart(
    name: str, title: str, says: str, draw: Callable[[Axes], None], *, height: float = HEIGHT, names: Sequence[str] = ()
) -> Html:
    """A picture with its caption.

    Args:
        name: begins the ids of its parts, and is given to no other picture of the page.
        title: the caption, which says what is seen.
        says: the same for people who hear the page.
        names: what stands beside the lines of a chart that has names there.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = io.StringIO()
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height))
        left = 0.2 + LETTER * max(map(len, names)) if names else 0.95
        # Matplotlib would find the room by measuring every letter twice, in a font that is not the page's.
        figure.subplots_adjust(left / WIDTH, 0.6 / height, 1 - 0.15 / WIDTH, 1 - 0.12 / height)
        draw(figure.add_subplot())
        figure.savefig(drawn, format="svg", transparent=True, metadata=NOTHING)
    picture = _for_a_page(drawn.getvalue(), name, says)
    return tag("figure", tag("figcaption", title), picture)


def in_percent(axis: Axis) -> None:
    """Shares as percent, in round steps."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: percent(share, 0)))


def named_lines(axes: Axes, names: Sequence[str]) -> None:
    """One line for each name, from above."""
    axes.set(yticks=range(len(names)), yticklabels=names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")


def height_of(names: Sequence[str]) -> float:
    """Inches of a chart with these lines."""
    return 0.75 + 0.3 * max(2, len(names))


def _for_a_page(svg: str, name: str, says: str) -> Html:
    svg = svg[svg.index("<svg") :]  # without the declarations of a file of its own
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # which would rule the whole page
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None, "matplotlib writes one"
    opening = tag("svg", viewBox=box[1], role="img", aria_label=says).removesuffix("</svg>")
    return Html(opening + svg[svg.index(">") + 1 :].rstrip())
