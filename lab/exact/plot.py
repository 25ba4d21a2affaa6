"""Intervals of the exact level as plots, from the JSON of its runs.

python -m lab.exact.plot [FOLDER]    # exact-clusters.png and exact-choice.png beside their JSON
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.experiment import RESULTS

Intervals = Mapping[str, Mapping[str, float]]  # mean, low and high by name
SPREAD = 0.7  # of a row, which its series share


def main(arguments: Sequence[str]) -> list[Path]:
    """Draw what there is in the folder."""
    folder = Path(arguments[0]) if arguments else RESULTS
    drawn = []
    for name, draw in (("exact-clusters", draw_clusters), ("exact-choice", draw_choice)):
        path = folder / f"{name}.json"
        if path.exists():
            figure = draw(json.loads(path.read_text()))
            figure.savefig(path.with_suffix(".png"), dpi=110)
            drawn.append(path.with_suffix(".png"))
    return drawn


def draw_clusters(result: Mapping[str, Any]) -> Figure:
    """Gain over DPO's of each use of rewards, by regime: one cluster, k-means and the mixture."""
    regimes = result["regimes"]
    uses = list(next(iter(regimes.values()))["gain"])
    figure = Figure(figsize=(6.5 * len(uses), 5), layout="constrained")
    for axis, use in zip(figure.subplots(1, len(uses), sharey=True, squeeze=False)[0], uses, strict=True):
        of_regime = {name: regime["gain"][use] for name, regime in regimes.items()}
        kinds = [kind for kind in next(iter(of_regime.values())) if "against" not in kind]
        intervals(axis, {kind: {name: gains[kind] for name, gains in of_regime.items()} for kind in kinds})
        axis.set(title=use, xlabel="change of DPO's gain at 1 nat, per cent, 95 % interval")
        axis.legend(fontsize=8)
    return figure


def draw_choice(result: Mapping[str, Any]) -> Figure:
    """Every candidate's mean over the regimes, where it was chosen and where it was confirmed."""
    rounds = {name: result[name]["candidates"] for name in ("choice", "confirmation")}
    series = {
        name: {candidate: row["mean"] for candidate, row in reversed(rows.items())} for name, rows in rounds.items()
    }
    figure = Figure(figsize=(9, 1.5 + 0.22 * len(series["choice"])), layout="constrained")
    axis = figure.subplots()
    intervals(axis, series)
    axis.set(xlabel="change of DPO's gain at 1 nat, mean over regimes, per cent, 95 % interval")
    axis.legend(fontsize=8)
    return figure


def intervals(axis: Axes, series: Mapping[str, Intervals]) -> None:
    """A row for each name, and in it one interval for each series that has the name."""
    names = list(dict.fromkeys(name for rows in series.values() for name in rows))
    for number, (label, rows) in enumerate(series.items()):
        shift = SPREAD * ((number + 0.5) / len(series) - 0.5)
        places = [names.index(name) + shift for name in rows]
        means = [row["mean"] for row in rows.values()]
        below = [row["mean"] - row["low"] for row in rows.values()]
        above = [row["high"] - row["mean"] for row in rows.values()]
        axis.errorbar(means, places, xerr=(below, above), fmt="o", markersize=3, label=label)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(-0.7, len(names) - 0.3)


if __name__ == "__main__":
    print(*main(sys.argv[1:]), sep="\n")
