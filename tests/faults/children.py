"""The command `iwpo` in forked processes, each of which may be sabotaged as it begins."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import mkstemp
from typing import NamedTuple

import torch
from forked import CONTEXT, _run
from places import LINES, SAID, SPEAKING

PATIENCE = 180.0
"""Seconds after which a command hangs: its work is done in three, on a machine without other work."""

Sabotage = Callable[[], None]


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: of the exit, negative after a signal; None where it hung, and was killed then.
        said: to both outputs.
        at: when, in seconds of a clock that only goes on.
    """

    code: int | None
    said: str
    at: float


class Command:
    """One that runs."""

    def __init__(
        self, place: Path, words: Sequence[str], sabotage: Sabotage | None, variables: Mapping[str, str]
    ) -> None:
        handle, name = mkstemp(prefix="said-", suffix=".txt")
        os.close(handle)
        self._said = Path(name)
        arguments = (place, list(words), dict(variables), sabotage)
        self.process = CONTEXT.Process(target=_run, args=(self._said, _command, arguments), daemon=True)
        self.process.start()

    def ended(self, at: float) -> Ended:
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        said = self._said.read_text(errors="replace")
        self._said.unlink()
        return Ended(code, said, at)


def begin(
    place: Path, words: Sequence[str], sabotage: Sabotage | None = None, variables: Mapping[str, str] | None = None
) -> Command:
    """Begin a command in a folder.

    Args:
        words: what follows `iwpo`.
        sabotage: called in the process first.
        variables: added to its environment.
    """
    return Command(place, words, sabotage, variables or {})


def end(*commands: Command, patience: float = PATIENCE) -> list[Ended]:
    """Wait for their ends; what has not ended `patience` seconds later hangs."""
    running = {command.process.sentinel: number for number, command in enumerate(commands)}
    limit, ended = time.monotonic() + patience, {}
    while running:
        finished = wait(list(running), max(limit - time.monotonic(), 0))
        for sentinel in finished or list(running):
            number = running.pop(sentinel)  # type: ignore[arg-type]
            commands[number].process.join(5 if finished else 0)
            ended[number] = commands[number].ended(time.monotonic())
    return [ended[number] for number in range(len(commands))]


def run(place: Path, words: Sequence[str], sabotage: Sabotage | None = None) -> Ended:
    """Run one command to its end."""
    return end(begin(place, words, sabotage))[0]


def _command(place: Path, words: list[str], variables: dict[str, str], sabotage: Sabotage | None) -> None:
    from iwpo_fast.cli import main

    os.chdir(place)
    os.environ |= variables
    if words[0] in SPEAKING:  # as a shell does for `< lines.txt > said.txt`
        sys.stdin = os.fdopen(os.open(LINES, os.O_RDONLY), encoding="utf-8")
        os.dup2(os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stdout.fileno())
    torch.set_num_threads(1)
    if sabotage:
        sabotage()
    sys.exit(main(words))
