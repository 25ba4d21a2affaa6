"""The first run on a GPU: parts that fail or hang, and the files that come back."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import torch
from forked import HANG

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.environment import ROOT
from benchmarks.gpu import __main__ as command_line
from benchmarks.gpu import runner
from benchmarks.gpu.parts import OUT, PARTS, Part
from benchmarks.gpu.runner import PAGE, RESULTS, Runner, exit_status, files_of

MACHINE = {"device": {"name": "a card", "type": "cuda"}, "commit": "abc", "versions": {"torch": "2.11.0"}}
MOST_FILES, MOST_SECONDS = 8, 580
LIMIT = int(HANG)
BESIDE_PARTS = 15  # seconds for wheels, imports and facts on the machine


def part(name: str, *code: str, limit: int = LIMIT, file: str = "") -> Part:
    """One that runs pieces of Python."""
    commands = tuple(shlex.join(["-c", piece]) for piece in code)
    return Part(name, f"what {name} does", limit, file or f"{name}.txt", commands, commands)


def run(folder: Path, *parts: Part, quick: bool = False) -> dict[str, Any]:
    """What became of each part by name, after a look at what the files say."""
    outcomes = Runner(folder, MACHINE, quick).run(parts)
    written = json.loads((folder / RESULTS).read_text())
    assert written["parts"] == outcomes
    return {outcome["name"]: SimpleNamespace(**outcome) for outcome in outcomes}


def test_a_part_that_fails_does_not_stop_the_next(tmp_path: Path) -> None:
    found = run(tmp_path, part("bad", "print('so far'); raise ValueError('no good')"), part("good", "print('well')"))
    assert (found["bad"].status, found["bad"].last) == ("failed", "ValueError: no good")
    assert (found["good"].status, found["good"].last) == ("passed", "well")
    assert "so far" in (tmp_path / "bad.txt").read_text()
    page = (tmp_path / PAGE).read_text()
    assert "| bad | what bad does | **failed** |" in page and "| good | what good does | passed |" in page


def test_a_command_after_one_that_failed_is_left_out(tmp_path: Path) -> None:
    run(tmp_path, part("two", "raise SystemExit(1)", "print('reached')"))
    assert "\nreached" not in (tmp_path / "two.txt").read_text()


@pytest.fixture
def begun_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's time begins as it says "begun", or ends."""

    def started(*arguments: Any, stdout: IO[str], **keywords: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(*arguments, stdout=stdout, **keywords)
        wait_until(lambda: "begun" in Path(stdout.name).read_text() or process.poll() is not None)
        return process

    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": started}))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("begun_first")
def test_a_part_over_its_limit_is_killed_with_its_children_and_keeps_its_output(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep({2 * HANG})"])
pathlib.Path({str(child)!r}).write_text(str(child.pid))
print("begun", flush=True)
time.sleep({2 * HANG})
"""
    found = run(tmp_path / "out", part("slow", code, limit=1), part("next", "print('here')"))
    assert (found["slow"].status, found["slow"].last, found["next"].status) == ("timed out", "begun", "passed")
    wait_until(lambda: not is_running(int(child.read_text())))


def is_running(process: int) -> bool:
    """Whether it is neither gone nor dead and unburied."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_limits_hold_for_all_commands_of_a_part_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own, on which each command takes half of the limit."""
    looks = iter([0, 0, LIMIT, 2 * LIMIT, 3 * LIMIT])
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    naps = part("naps", "print('slept')", "print('slept')", f"import time; time.sleep({2 * HANG})", limit=2 * LIMIT)
    assert run(tmp_path, naps)["naps"].status == "timed out"
    assert (tmp_path / "naps.txt").read_text().count("\nslept\n") == 2


def test_json_in_the_folder_of_a_part_goes_into_the_results_even_if_it_fails(tmp_path: Path) -> None:
    code = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "deep").mkdir()
(folder / "deep" / "whole.json").write_text(json.dumps({"a": 1}))
(folder / "cut.json").write_text('{"a":')
raise SystemExit(3)
"""
    command = (shlex.join(["-c", code, OUT]),)
    run(tmp_path, Part("numbers", "", LIMIT, "numbers.txt", command, command))
    assert json.loads((tmp_path / RESULTS).read_text())["numbers"] == {"numbers": {"deep/whole.json": {"a": 1}}}


def test_commands_see_their_folder_in_variables_too(tmp_path: Path) -> None:
    command = (f"TABLE={OUT} " + shlex.join(["-c", "import os; print(os.path.isdir(os.environ['TABLE']))"]),)
    assert run(tmp_path, Part("table", "", LIMIT, "table.txt", command, command))["table"].last == "True"


@pytest.mark.slow
@pytest.mark.usefixtures("begun_first")
@pytest.mark.parametrize("is_killed", [False, True])
def test_failures_that_pytest_names_come_onto_the_page_once(tmp_path: Path, is_killed: bool) -> None:
    script = tmp_path / "tests.py"
    script.write_text(f"""
import time
print("[gw3] [ 12%] PASSED tests/a.py::test_a")
print("[gw3] [ 13%] FAILED tests/a.py::test_b[x y]", flush=True)
if {is_killed}:
    print("begun", flush=True)
    time.sleep({2 * HANG})
print("FAILED tests/a.py::test_b[x y] - assert 1 == 2\\nERROR tests/c.py - no\\n1 failed, 3 passed")
raise SystemExit(1)
""")
    command = (shlex.quote(str(script)),)
    found = run(tmp_path, Part("tests", "", 1 if is_killed else LIMIT, "tests.txt", command, command))["tests"]
    whole = ["FAILED tests/a.py::test_b[x y] - assert 1 == 2", "ERROR tests/c.py - no"]
    assert found.failures == ([whole[0].partition(" - ")[0]] if is_killed else whole)
    assert "FAILED tests/a.py::test_b" in (tmp_path / PAGE).read_text()


@pytest.mark.slow
def test_parts_may_share_a_file_and_a_new_run_begins_it_anew(tmp_path: Path) -> None:
    both = part("one", "print('first')", file="both.txt"), part("two", "print('second')", file="both.txt")
    for _ in range(2):
        found = run(tmp_path, *both)
    assert [found[name].last for name in ("one", "two")] == ["first", "second"]
    lines = (tmp_path / "both.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("$")] == ["first", "second"]


def test_a_quick_run_shows_no_gpu_and_prints_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import os; print('sees', repr(os.environ['CUDA_VISIBLE_DEVICES'])); raise SystemExit(1)"
    run(tmp_path, part("bad", code), quick=True)
    assert "sees ''" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("statuses", "quick", "expected"),
    [
        (["passed", "failed"], False, 0),
        (["failed", "timed out"], False, 1),
        (["passed", "passed"], True, 0),
        (["passed", "timed out"], True, 1),
    ],
)
def test_exit_status_lets_results_come_back_and_stops_a_quick_run(
    statuses: list[str], quick: bool, expected: int
) -> None:
    assert exit_status(statuses, quick) == expected


def test_limits_add_up_to_less_than_a_command_may_take() -> None:
    assert sum(part.limit for part in PARTS) + BESIDE_PARTS < MOST_SECONDS


def test_no_more_files_come_back_than_may_and_none_in_a_folder() -> None:
    files = files_of(PARTS)
    assert len(files) <= MOST_FILES
    assert all("/" not in name for name in files)


def test_every_part_has_a_quick_command_for_each_file_and_module_that_it_runs() -> None:
    for part in PARTS:
        for command in (*part.commands, *part.quick):
            first, *others = words_of(command)
            target = ROOT / (f"{others[0].replace('.', '/')}" if first == "-m" else first)
            assert (
                others[:1] == ["pytest"] or target.is_file() or target.is_dir() or target.with_suffix(".py").is_file()
            ), target
        programs = [{program(c) for c in commands} for commands in (part.commands, part.quick)]
        assert programs[0] == programs[1], part.name


def test_tests_that_a_part_names_exist() -> None:
    named = [
        word for part in PARTS for command in part.commands for word in words_of(command) if word.startswith("tests")
    ]
    assert named and all((ROOT / path).exists() for path in named)


def words_of(command: str) -> list[str]:
    """Behind the variables."""
    return [word for word in shlex.split(command) if not runner.VARIABLE.match(word)]


def program(command: str) -> str:
    """File or module."""
    first, second, *_ = words_of(command)
    return second if first == "-m" else first


def test_list_names_every_part_and_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [(line.split()[0], int(line.split()[1])) for line in lines] == [(p.name, p.limit) for p in PARTS]


def test_a_page_that_cannot_be_made_costs_neither_results_nor_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(results: dict[str, Any]) -> str:
        raise KeyError("records")

    monkeypatch.setattr(runner, "page", broken)
    assert list(run(tmp_path, part("one", "pass"), part("two", "pass"))) == ["one", "two"]
    assert "KeyError: 'records'" in (tmp_path / PAGE).read_text()
    with pytest.raises(KeyError):
        run(tmp_path, part("one", "pass"), quick=True)


def test_chosen_parts_alone_are_run_into_the_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    parts = (part("one", "print('first')"), part("two", "print('second')"))
    monkeypatch.setattr(command_line, "PARTS", parts)
    assert command_line.main(["--quick", "--parts", "two", "--commit", "abc"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["two.txt", RESULTS, PAGE])


def test_without_a_gpu_the_full_run_says_how_to_run_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        command_line.main([])
    assert "--quick" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_hands_its_arguments_on_and_sets_the_path() -> None:
    script = ROOT / "benchmarks" / "gpu" / "first.sh"
    assert os.access(script, os.X_OK)
    done = os.popen(f"PYTHON={shlex.quote(sys.executable)} {shlex.quote(str(script))} --list 2>&1").read()
    assert all(part.name in done for part in PARTS), done


def test_the_part_under_way_is_the_only_one_without_an_outcome(tmp_path: Path) -> None:
    seen = f"import pathlib; print('kernels' in pathlib.Path({str(tmp_path / RESULTS)!r}).read_text())"
    assert run(tmp_path, part("kernels", "pass"), part("after", seen))["after"].last == "True"
