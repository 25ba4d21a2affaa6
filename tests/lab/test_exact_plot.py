"""Plots of the exact level show what its results hold."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from matplotlib.figure import Figure

from lab.exact import plot
from lab.experiment import RESULTS


def test_a_row_has_an_interval_of_every_series_that_names_it() -> None:
    axis = Figure().subplots()
    one, other = {"mean": 1.0, "low": 0.5, "high": 2.0}, {"mean": -3.0, "low": -4.0, "high": -1.0}
    plot.intervals(axis, {"first": {"a": one, "b": other}, "second": {"b": one}})
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    found = [container.lines for container in axis.containers]
    assert [list(points.get_xdata()) for points, *_ in found] == [[1.0, -3.0], [1.0]]
    drawn = [[list(ends[:, 0]) for ends in bars[0].get_segments()] for _, _, bars in found]
    assert drawn == [[[0.5, 2.0], [-4.0, -1.0]], [[0.5, 2.0]]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact-clusters", "exact-choice"])
def test_committed_results_are_drawn(name: str, tmp_path: Path) -> None:
    shutil.copy(RESULTS / f"{name}.json", tmp_path)
    assert plot.main([str(tmp_path)]) == [tmp_path / f"{name}.png"]
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_a_folder_without_results_leaves_no_plot(tmp_path: Path) -> None:
    assert plot.main([str(tmp_path)]) == []
