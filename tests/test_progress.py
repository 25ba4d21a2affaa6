"""What a stage says of itself where no terminal shows a bar."""

from __future__ import annotations

import io
import sys

import pytest
from tqdm.auto import tqdm

from iwpo_fast import progress as module
from iwpo_fast.progress import ProgressLines, progress, span


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_half_minute_with_the_time_that_is_left(clock, capfd) -> None:
    with progress("reference pass", 1000, "response", initial=100) as bar:
        for _ in range(60):
            clock[0] += 1
            bar.update(5)
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        "reference pass: 250 of 1,000 responses, about 2 min left",
        "reference pass: 400 of 1,000 responses, about 2 min left",
    ]


def test_a_stage_that_is_shorter_or_just_over_says_nothing(clock, capfd) -> None:
    for seconds in (29, 31):
        bar = progress("tokenising", 10, "row")
        clock[0] += seconds
        bar.update(10)
        bar.close()
    assert capfd.readouterr().err == ""


def test_what_is_written_beside_it_is_a_line_of_its_own(capfd) -> None:
    progress("training", 2, "step").write("step 1")
    assert capfd.readouterr().out == "step 1\n"


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("sampling", 3, "completion") as bar:
        assert isinstance(bar, tqdm)
        bar.update(3)
    assert "sampling: 100%" in sys.stderr.getvalue() and "3/3" in sys.stderr.getvalue()


def test_ranks_but_the_first_show_nothing(clock, capfd) -> None:
    with progress("sampling", 3, "completion", shown=False) as bar:
        assert not isinstance(bar, ProgressLines)
        clock[0] += 100
        bar.update(1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (5940, "99 min"), (7500, "2 h 05 min"), (300000, "3 days")],
)
def test_times_are_as_coarse_as_they_are_long(seconds, words) -> None:
    assert span(seconds) == words
