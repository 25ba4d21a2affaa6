"""Runs parts one after the other; each leaves its output, its numbers and a new page the moment it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

from benchmarks.environment import ROOT
from benchmarks.gpu.page import FAILED, OVER_LIMIT, PASSED, page
from benchmarks.gpu.parts import OUT, QUICK_LIMIT, Part

RESULTS, PAGE = "results.json", "page.md"
SHOWN_LINES = 40  # of a part that failed
TOLD_FAILURES = 25
FAILURE = re.compile(r"(FAILED|ERROR) (?P<test>tests/.*?)( - .*)?$")
VARIABLE = re.compile(r"[A-Z_]+=")
Outcome = dict[str, Any]  # what became of a part, as the results have it


class Runner:
    """A run of some parts.

    Args:
        out: folder of the files, which is made.
        environment: facts on the machine, for the results.
        quick: the tiny commands, on a CPU.
    """

    def __init__(self, out: Path, environment: dict[str, Any], quick: bool) -> None:
        self.out, self.environment, self.quick = out, environment, quick
        self.outcomes: list[Outcome] = []
        self.numbers: dict[str, dict[str, Any]] = {}

    def run(self, parts: Sequence[Part]) -> list[Outcome]:
        self.out.mkdir(parents=True, exist_ok=True)
        for name in files_of(parts):
            (self.out / name).unlink(missing_ok=True)
        for part in parts:
            outcome = self._run_part(part)
            self.outcomes.append(outcome)
            self._write()
            print(f"{part.name}: {outcome['status']} in {outcome['seconds']:.0f} s. {outcome['last']}", flush=True)
            if self.quick and outcome["status"] != PASSED:
                lines = (self.out / part.file).read_text(errors="replace").splitlines()
                print(*lines[-SHOWN_LINES:], sep="\n", flush=True)
        return self.outcomes

    def _run_part(self, part: Part) -> Outcome:
        limit, status = QUICK_LIMIT if self.quick else part.limit, PASSED
        log_path, begin = self.out / part.file, time.monotonic()
        with tempfile.TemporaryDirectory() as scratch, log_path.open("a+", errors="replace") as log:
            first = log.tell()
            for command in part.quick if self.quick else part.commands:
                left = limit - (time.monotonic() - begin)
                status = _execute(*_parsed(command, scratch), log, left, self.quick)
                if status != PASSED:
                    break
            seconds = time.monotonic() - begin
            log.seek(first)
            lines = [line.strip() for line in log if line.strip()]
            self.numbers[part.name] = _numbers(Path(scratch))
        return {
            "name": part.name,
            "what": part.what,
            "limit": limit,
            "file": part.file,
            "status": status,
            "seconds": seconds,
            "last": lines[-1] if lines else "",
            "failures": _failures(lines)[:TOLD_FAILURES],
        }

    def _write(self) -> None:
        results = {
            "schema": 1,
            "date": date.today().isoformat(),
            "quick": self.quick,
            "environment": self.environment,
            "parts": self.outcomes,
            "numbers": self.numbers,
        }
        (self.out / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
        try:
            text = page(results)
        except Exception:
            if self.quick:
                raise
            text = f"There is no page, but {RESULTS} is whole.\n\n```\n{traceback.format_exc()}```\n"
        (self.out / PAGE).write_text(text)


def files_of(parts: Sequence[Part]) -> list[str]:
    """Names of all files that a run of these parts leaves."""
    return list(dict.fromkeys([*(part.file for part in parts), RESULTS, PAGE]))


def exit_status(statuses: Sequence[str], quick: bool) -> int:
    """Where a GPU was used, 0 as soon as anything passed, so that what was found comes back."""
    passed = [status == PASSED for status in statuses]
    return int(not (all(passed) if quick else any(passed)))


def _parsed(command: str, folder: str) -> tuple[list[str], dict[str, str]]:
    """Arguments of Python, and the variables before them."""
    words = [word.replace(OUT, folder) for word in shlex.split(command)]
    variables = [*takewhile(VARIABLE.match, words)]
    return words[len(variables) :], dict(variable.split("=", 1) for variable in variables)


def _execute(arguments: Sequence[str], variables: dict[str, str], log: IO[str], limit: float, quick: bool) -> str:
    """Status; the output goes straight into the log, so that what is killed keeps what it wrote."""
    print(f"$ python {' '.join(arguments)}", file=log, flush=True)
    environment = os.environ | variables | ({"CUDA_VISIBLE_DEVICES": ""} if quick else {})
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=environment,
        process_group=0,
    )
    try:
        return FAILED if process.wait(max(0.0, limit)) else PASSED
    except subprocess.TimeoutExpired:
        return OVER_LIMIT
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _failures(lines: Sequence[str]) -> list[str]:
    """Tests that pytest says have failed, each once: with the reason if it came as far as its summary."""
    failures: dict[str, str] = {}
    for line in lines:
        if named := FAILURE.search(line):
            failures[named["test"]] = named[0]
    return list(failures.values())


def _numbers(folder: Path) -> dict[str, Any]:
    """All JSON in a folder by its path there, except what a killed part has not written to its end."""
    numbers = {}
    for path in sorted(folder.rglob("*.json")):
        with suppress(ValueError):
            numbers[str(path.relative_to(folder))] = json.loads(path.read_text())
    return numbers
