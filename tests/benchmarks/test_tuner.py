"""The search for the fastest settings of the head: what wins, what is written. Times that matter are made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import HANG

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import harness, operators
from benchmarks.linear_token_logps import race as race_module
from benchmarks.linear_token_logps.candidates import ROW_KERNELS, Candidate, candidates
from benchmarks.linear_token_logps.costs import Case
from benchmarks.linear_token_logps.gpus import GPUS
from benchmarks.linear_token_logps.race import Standing, is_faster, race
from benchmarks.linear_token_logps.shapes import TINY
from benchmarks.linear_token_logps.tuner import ModeResult, markdown, read, tune_shape, write
from benchmarks.suite import Run
from iwpo_kernels.devices import interpreted_kernels
from iwpo_kernels.linear_token_logps.tiling import Tiling, tiling_on
from iwpo_kernels.linear_token_logps.tuned import DEFAULTS, Tuned

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
PROCESSORS = GPUS["H100"].multiprocessors
MODES = ("no gradient", "frozen", "saved", "recomputed")


def case(mode: str, features: int = 4096) -> Case:
    return Case(4096, features, 151_936, mode)


@pytest.mark.parametrize("mode", MODES)
def test_the_default_is_the_first_candidate(mode: str) -> None:
    first, *others = candidates(case(mode), PROCESSORS)
    work = case(mode).gradient_work if mode == "recomputed" else case(mode).forward_work()
    assert first.settings == DEFAULTS and first.tile == tiling_on(PROCESSORS, work, 256, DEFAULTS)
    assert 4 <= len(others) <= 60 and len({one.name for one in (first, *others)}) == 1 + len(others)


@pytest.mark.parametrize("mode", MODES)
def test_candidates_vary_rows_width_workspace_and_row_kernel_together(mode: str) -> None:
    found = candidates(case(mode), PROCESSORS)
    assert {one.fits for one in found} == {True, False}
    assert len({one.tile for one in found}) >= 4
    if mode != "recomputed":
        assert len({one.tile.rows for one in found}) >= 2
        for warps, block in ROW_KERNELS:
            tiles = {one.tile for one in found if (one.settings.row_warps, one.settings.slice_block) == (warps, block)}
            assert len(tiles) >= 4


def test_a_candidate_has_the_tile_that_its_settings_get_in_its_memory() -> None:
    for one in candidates(case("frozen"), PROCESSORS):
        work = case("frozen").forward_work(one.settings.epilogue)
        assert tiling_on(PROCESSORS, work, max(256, one.mib), one.settings) == one.tile
        assert one.mib - 1 < work.bytes(one.tile) / 2**20 <= one.mib


def test_the_epilogue_is_a_candidate_where_it_serves() -> None:
    for mode, serves in (("no gradient", True), ("frozen", True), ("saved", False), ("recomputed", False)):
        assert any(one.settings.epilogue for one in candidates(case(mode), PROCESSORS)) == serves


def test_what_the_table_has_is_tried_again() -> None:
    present = Tuned(2048, 8448, 16, 4096)
    assert any(one.settings == present for one in candidates(case("frozen"), PROCESSORS, present))


@pytest.mark.parametrize(
    ("ours", "faster"),
    [
        ([9.0, 9.1, 9.2, 9.3], True),
        ([9.93, 9.94, 9.95, 9.96], False),  # less than 1 %
        ([9.0, 9.1, 10.0, 10.2], False),  # its upper quartile is not below
    ],
)
def test_faster_is_by_more_than_noise(ours: list[float], faster: bool) -> None:
    assert is_faster(ours, [9.98, 10.0, 10.0, 10.02]) == faster


class Clock:
    """Stands in for the module `time`; calls take the time that they are said to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for module in (harness, operators, race_module):
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def taking(self, seconds: float) -> Run:
        def run() -> tuple[torch.Tensor, ...]:
            self.now += seconds
            return ()

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_race_drops_the_slow_and_keeps_the_default(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(race_module, "FINAL_ROUNDS", 5)
    milliseconds = {"default": 10, "a": 30, "b": 6, "c": 20, "d": 8, "e": 30, "larger": 7, "slow": 30, "slower": 40}
    runs = {key: clock.taking(1e-3 * ms) for key, ms in milliseconds.items()}
    groups = [["a", "b", "c", "d", "e"], ["slower", "slow", "larger"]]
    standings = race(runs, "default", groups, CPU, clock.now + 5)
    assert {key for key, one in standings.items() if len(one.times_ms) == 5} == {"default", "b", "d", "larger", "slow"}
    assert standings["b"].is_faster and standings["larger"].is_faster and not standings["slow"].is_faster
    assert standings["b"].over_default == pytest.approx(0.6)
    assert standings["default"].over_default == 1


def test_a_race_that_is_out_of_time_ends_with_three_rounds(clock: Clock) -> None:
    runs = {key: clock.taking(1e-3) for key in "abcdefgh"}
    standings = race(runs, "a", [list("bcdefgh")], CPU, clock.now - 1)
    assert {key: len(one.times_ms) for key, one in standings.items()} == {"a": 3, "b": 3, "c": 3}


def mode_result(**over_default: float) -> ModeResult:
    """Of candidates by name; those that begin with "big" need more than the default workspace."""
    by_name = {
        name: Candidate(DEFAULTS, Tiling(128, 128), 400 if name.startswith("big") else 200, epilogue=False)
        for name in over_default
    }
    standings = {name: Standing([10 * ratio] * 3, ratio, ratio < 0.99) for name, ratio in over_default.items()}
    return ModeResult(case("frozen"), by_name, standings, untried=2)


def test_only_what_fits_the_default_workspace_is_written() -> None:
    both = mode_result(default=1.0, one=0.95, other=0.97, big=0.90)
    assert (both.best, both.best_with_more_memory) == ("one", "big")
    assert mode_result(default=1.0, one=0.995, big=1.0).best is None


def test_the_report_says_what_more_memory_buys_and_what_was_not_tried() -> None:
    text = "\n".join(markdown(TINY, [mode_result(default=1.0, one=0.95, big=0.90)]))
    assert "| frozen | one | 200 | 9.5 | 9.5–9.5 | 0.950 | **written** |" in text
    assert "| frozen | big | 400 | 9 | 9–9 | 0.900 | more than 256 MiB |" in text
    assert "written, one. 400 MiB would save another 5.3 %: big. 2 candidates were not timed." in text
    assert "the default is as fast" in "\n".join(markdown(TINY, [mode_result(default=1.0, one=1.1)]))


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "tuned.json"
    assert read(path) == {}
    entries = {("a", 64, "saved"): Tuned(128, 256), ("a", 64, "frozen"): Tuned(row_warps=4, epilogue=True)}
    write(path, entries)
    assert read(path) == entries
    assert [p.name for p in path.parent.iterdir()] == ["tuned.json"]
    assert {"rows", "epilogue"} & json.loads(path.read_text())[0].keys() == {"epilogue"}


@pytest.mark.slow
def test_the_tuner_runs_and_leaves_other_entries_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    other = {("another device", 64, "saved"): Tuned(rows=5)}
    write(path, other | {("cpu", 16, "saved"): Tuned(128, 128)})
    options = ["--quick", "--device", "cpu", "--seconds", "1", "--out", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.linear_token_logps.tune", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(f"- {mode}: " in done.stdout for mode in MODES)
    entries = json.loads(path.read_text())
    assert entries[0] == {"device": "another device", "hidden_size": 64, "mode": "saved", "rows": 5}
    assert all(entry["device"] == "cpu" and entry["hidden_size"] == 16 for entry in entries[1:])


def test_times_of_the_interpreter_are_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.linear_token_logps import tune

    with pytest.raises(SystemExit):
        tune.main(["--device", "cpu", "--out", "x.json"])
    assert "pass --quick" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no shape 'none'.*qwen3-8b-half"):
        tune.main(["--device", "cuda", "--shapes", "none", "--out", "x.json"])


@pytest.mark.parametrize("mode", ["no gradient", "frozen"])
def test_the_epilogue_is_tried_before_time_may_end(mode: str) -> None:
    assert any(one.settings.epilogue for one in candidates(case(mode), PROCESSORS)[:3])


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter stands in for a GPU")
def test_an_entry_that_there_was_no_time_to_try_stays() -> None:
    shape = replace(TINY, tokens=4)
    entries = {("cpu", shape.hidden, "frozen"): Tuned(128, 128, row_warps=2)}
    with interpreted_kernels():
        found = tune_shape(shape, CPU, entries, deadline=time.monotonic())
    assert len(found) == len(MODES)
    assert entries == {("cpu", shape.hidden, "frozen"): Tuned(128, 128, row_warps=2)}
