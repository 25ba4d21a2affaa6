"""Draws how cost grows: one figure per sweep, tokens per second beside peak memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.plot import COLOURS, PLAIN, save

NAMES = {"length": "longest sequence, tokens", "vocabulary": "vocabulary", "pairs": "pairs per step"}


def draw(rows: Sequence[dict[str, Any]], path: Path, device: str) -> list[Path]:
    """Write `<stem>-<sweep>.png` beside the result file for each sweep that has rows."""
    drawn = []
    for sweep in dict.fromkeys(row["sweep"] for row in rows):
        figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 3.6))
        _lines(speed, [row for row in rows if row["sweep"] == sweep and row["tokens_per_s"]], "tokens_per_s")
        _lines(memory, [row for row in rows if row["sweep"] == sweep and row["extra_mib"]], "extra_mib")
        speed.set_ylabel("tokens/s without padding")
        memory.set_ylabel("extra memory at the peak, MiB")
        for axis in (speed, memory):
            axis.set(xscale="log", yscale="log", xlabel=NAMES[sweep])
            sizes = sorted({row["size"] for row in rows if row["sweep"] == sweep})
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            if axis.has_data():
                low, high = axis.dataLim.intervaly
                axis.set_ylim(low / 2, 2 * high)  # wide enough for two ticks or more
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(PLAIN)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_minor_locator(NullLocator())
            axis.grid(alpha=0.3)
        figure.suptitle(f"Training step, {device}", fontsize=11, x=0.01, ha="left")
        figure.legend(*speed.get_legend_handles_labels(), loc="upper right", ncols=3, fontsize=8)
        figure.tight_layout()
        drawn.append(save(figure, path, sweep))
    return drawn


def _lines(axis: Axes, rows: Sequence[dict[str, Any]], value: str) -> None:
    for contender in dict.fromkeys(row["contender"] for row in rows):
        mine = [row for row in rows if row["contender"] == contender]
        sizes, style = [row["size"] for row in mine], {"color": COLOURS[contender], "label": mine[0]["label"]}
        if value == "extra_mib":
            axis.plot(sizes, [row[value] for row in mine], marker="o", **style)
            continue
        medians = [row[value]["median"] for row in mine]
        low = [row[value]["median"] - row[value]["low"] for row in mine]
        high = [row[value]["high"] - row[value]["median"] for row in mine]
        axis.errorbar(sizes, medians, yerr=[low, high], marker="o", capsize=3, **style)
