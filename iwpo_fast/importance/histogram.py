"""The histogram of a weight report as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from iwpo_fast.files import written_aside
from iwpo_fast.importance.diagnostics import WeightReport


def save_histogram(path: Path, report: WeightReport) -> None:
    """Draw the histogram of the weights as a PNG; a kill leaves no half-written file."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.add_subplot()
    axis.stairs(report.counts, report.edges, fill=True, color="#2471a3")
    axis.axvline(1.0, color="#7f8c8d", linewidth=1)
    axis.set(yscale="symlog", xlabel="weight (line: the mean, 1)", ylabel="pairs")
    axis.set_title(f"{report.pairs:,} pairs, effective sample size {report.ess:.1%}", loc="left", fontsize=10)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
