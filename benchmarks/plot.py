"""Plots of results: time over the floor, memory over tokens, and how the cost of training grows.

python -m benchmarks.plot RESULT.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

HEAD = "linear_token_logps"
COLOURS = {
    "ours": "#c0392b",
    "torch": "#7f8c8d",
    "trl": "#2471a3",
    "liger": "#b9770e",
    "cce": "#6c3483",
    "plain": "#7f8c8d",
}
MARKERS = "osD^vP*X<>"
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
REACH = 1.13  # times the floor
SWEEPS = {"length": "longest sequence, tokens", "vocabulary": "vocabulary", "pairs": "pairs per step"}


def draw(path: Path) -> list[Path]:
    """Write `<stem>-time.png` and `<stem>-memory.png` beside a result file, as far as it has such results."""
    result = json.loads(path.read_text())
    records = [r for r in result["records"] if r["suite"] == HEAD and r["over_floor"] and r["library"] != "floor"]
    device = result["environment"]["device"]["name"]
    drawn = [save(_time_figure(records, device), path, "time")] if records else []
    if result["memory_by_tokens"]:
        drawn.append(save(_memory_figure(result["memory_by_tokens"], device), path, "memory"))
    return drawn


def save(figure: Any, path: Path, kind: str) -> Path:
    """Write a figure as `<stem>-<kind>.png` beside a result file."""
    target = path.with_name(f"{path.stem}-{kind}.png")
    figure.savefig(target, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return target


def _time_figure(records: list[dict[str, Any]], device: str) -> Any:
    """One panel per mode; a row per variant, a marker per shape, over the time of the bare products."""
    modes = list(dict.fromkeys(r["mode"] for r in records))
    shapes = list(dict.fromkeys(r["shape"]["name"] for r in records))
    rows = {mode: list(dict.fromkeys(r["label"] for r in records if r["mode"] == mode))[::-1] for mode in modes}
    heights = [len(labels) + 1 for labels in rows.values()]
    figure, axes = plt.subplots(
        len(modes), 1, figsize=(9, 0.36 * sum(heights) + 1.2), sharex=True, height_ratios=heights, squeeze=False
    )
    for axis, mode in zip(axes[:, 0], modes, strict=True):
        _time_panel(axis, [r for r in records if r["mode"] == mode], rows[mode], shapes)
        axis.set_title(mode, loc="left", fontsize=10)
    highest = max(r["over_floor"]["high"] for r in records)
    what = "time ÷ time of the bare products of the row (line: 1, dotted: 1.13)"
    axes[-1, 0].set(xscale="log", xlim=(0.8, 1.4 * highest), xlabel=what)
    axes[-1, 0].xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter=PLAIN)
    if len(shapes) > 1:
        axes[0, 0].legend(fontsize=7, loc="upper right")
    figure.suptitle(f"Head to preference loss and gradients, {device}", fontsize=11)
    figure.tight_layout()
    return figure


def _time_panel(axis: Axes, records: list[dict[str, Any]], rows: list[str], shapes: list[str]) -> None:
    labelled = set()
    for record in records:
        value, shape = record["over_floor"], record["shape"]["name"]
        row, colour = rows.index(record["label"]), COLOURS[record["library"]]
        whiskers = [[value["median"] - value["low"]], [value["high"] - value["median"]]]
        marker = MARKERS[shapes.index(shape) % len(MARKERS)]
        label = None if shape in labelled else shape
        labelled.add(shape)
        axis.errorbar(value["median"], row, xerr=whiskers, fmt=marker, color=colour, capsize=3, label=label)
        if len(shapes) == 1:
            text = f"  {record['time_ms']['median']:.0f} ms"
            axis.annotate(text, (value["high"], row), va="center", fontsize=8, color=colour)
    axis.axvline(1, color="black", linewidth=1)
    axis.axvline(REACH, color="black", linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(rows)), rows, fontsize=9)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.grid(axis="x", alpha=0.3)


def _memory_figure(rows: list[dict[str, Any]], device: str) -> Any:
    """One panel per mode; a line per variant, peak memory beyond the inputs over the tokens of a batch."""
    rows = [row for row in rows if row["extra_mib"] is not None]
    libraries = {row["label"]: row["library"] for row in rows}
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    figure, axes = plt.subplots(1, len(modes), figsize=(4.6 * len(modes), 4), sharey=True, squeeze=False)
    for axis, mode in zip(axes[0], modes, strict=True):
        labels = list(dict.fromkeys(row["label"] for row in rows if row["mode"] == mode))
        drawn: dict[str, int] = {}
        for label in labels:
            mine = (r for r in rows if r["mode"] == mode and r["label"] == label)
            points = sorted((r["tokens"], r["extra_mib"]) for r in mine)
            library = libraries[label]
            style = ["-", "--", ":"][drawn.setdefault(library, 0)]
            drawn[library] += 1
            axis.plot(*zip(*points, strict=True), style, marker="o", color=COLOURS[library], label=label)
        axis.set(xscale="log", yscale="log", title=mode, xlabel="tokens, prompts included")
        ticks = sorted({row["tokens"] for row in rows})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    figure.legend(
        lines.values(), lines.keys(), fontsize=8, ncols=len(lines), loc="upper center", bbox_to_anchor=(0.5, 0)
    )
    axes[0, 0].yaxis.set_major_formatter(PLAIN)
    axes[0, 0].set_ylabel("peak memory beyond the inputs, MiB")
    figure.suptitle(f"Peak memory of the head at shape {rows[0]['shape']}, {device}", fontsize=11)
    figure.tight_layout()
    return figure


def draw_growth(rows: Sequence[dict[str, Any]], path: Path, device: str) -> list[Path]:
    """How cost grows: tokens per second beside peak memory, as `<stem>-<sweep>.png` for each sweep that has rows."""
    drawn = []
    for sweep in dict.fromkeys(row["sweep"] for row in rows):
        figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 3.6))
        _growth_lines(speed, [row for row in rows if row["sweep"] == sweep and row["tokens_per_s"]], "tokens_per_s")
        _growth_lines(memory, [row for row in rows if row["sweep"] == sweep and row["extra_mib"]], "extra_mib")
        for axis, what in ((speed, "tokens/s without padding"), (memory, "extra memory at the peak, MiB")):
            axis.set(xscale="log", yscale="log", xlabel=SWEEPS[sweep], ylabel=what)
            sizes = sorted({row["size"] for row in rows if row["sweep"] == sweep})
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            if axis.has_data():
                low, high = axis.dataLim.intervaly
                axis.set_ylim(low / 2, 2 * high)  # wide enough for two ticks or more
            axis.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=PLAIN)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        figure.suptitle(f"Training step, {device}", fontsize=11, x=0.01, ha="left")
        figure.legend(*speed.get_legend_handles_labels(), loc="upper right", ncols=3, fontsize=8)
        figure.tight_layout()
        drawn.append(save(figure, path, sweep))
    return drawn


def _growth_lines(axis: Axes, rows: Sequence[dict[str, Any]], value: str) -> None:
    for contender in dict.fromkeys(row["contender"] for row in rows):
        mine = [row for row in rows if row["contender"] == contender]
        points, whiskers = [row[value] for row in mine], None
        if value == "tokens_per_s":
            whiskers = [[p["median"] - p["low"] for p in points], [p["high"] - p["median"] for p in points]]
            points = [p["median"] for p in points]
        style = {"marker": "o", "capsize": 3, "color": COLOURS[contender], "label": mine[0]["label"]}
        axis.errorbar([row["size"] for row in mine], points, yerr=whiskers, **style)


if __name__ == "__main__":
    for drawing in draw(Path(sys.argv[1])):
        print(drawing)
