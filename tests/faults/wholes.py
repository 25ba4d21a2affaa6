"""What commands leave that nobody disturbs, made once for all cases."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import sabotage
from children import Command, Ended, begin, end, run
from places import GIVEN, OUT, READING, copy_of, new_place, results, words


class Whole(NamedTuple):
    """An undisturbed command.

    Attributes:
        place: where it ran, to be read only.
        results: the files of its output.
        events: how often something was done to a file.
        seconds: of the processor.
    """

    place: Path
    results: Mapping[str, bytes]
    events: int
    seconds: float


class Wholes:
    """All of them, in one folder; each is made when it is first asked for.

    Args:
        folder: which they may fill.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}
        self._lock = threading.RLock()
        self._wholes: dict[str, Whole] = {}
        self._places = 0

    def new_place(self, command: str = "train") -> Path:
        """A fresh place for one case, with a link to what the command reads."""
        place = new_place(self._new_folder())
        if command in READING:
            (place / GIVEN).symlink_to(self._given())
        return place

    def own_given(self, place: Path) -> None:
        """What the command reads as files of this place, which a case may change."""
        given = (place / GIVEN).resolve()
        (place / GIVEN).unlink()
        copy_of(given, place / GIVEN)

    def _given(self) -> Path:
        """A finished run, and an adapter of its base."""
        with self._lock:
            if "given" not in self._made:
                place = new_place(self._new_folder())
                copy_of(self.whole("run").place / OUT, place / GIVEN / "run")
                _must_succeed(run(place, ["train", "--config", "adapter.yaml"]))
                self._made["given"] = place / GIVEN
            return self._made["given"]

    def copy(self, name: str) -> Path:
        """A place as `interrupted` or `whole` has left it, that a case may change."""
        return copy_of(self._made[name], self._new_folder())

    def _new_folder(self) -> Path:
        with self._lock:
            self._places += 1
            return self._folder / f"place-{self._places}"

    def remove(self, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)

    def whole(self, command: str) -> Whole:
        """Of a command, or of `rank 0` or `rank 1` of a training by two processes, which share their place."""
        with self._lock:
            if command not in self._wholes:
                self._wholes |= self._make_ranks() if command.startswith("rank") else {command: self._make(command)}
            return self._wholes[command]

    def _make(self, command: str) -> Whole:
        place, counts = self.new_place(command), self._folder / f"{command}.json"
        _must_succeed(run(place, words(command), partial(sabotage.count_into, counts)))
        self._made[f"{command} finished"] = place
        return Whole(place, results(place), *json.loads(counts.read_text()))

    def _make_ranks(self) -> dict[str, Whole]:
        place, counts = self.new_place(), [self._folder / f"rank-{rank}.json" for rank in range(2)]
        first, second = (partial(sabotage.once_met, partial(sabotage.count_into, path)) for path in counts)
        for ended in run_ranks((place, place), (first, second)):
            _must_succeed(ended)
        found = results(place)
        return {f"rank {rank}": Whole(place, found, *json.loads(counts[rank].read_text())) for rank in range(2)}

    def situation(self, name: str) -> None:
        """Make what `copy` gives: `train finished`, `train interrupted`, `train cached`, and the same of the others.

        Interrupted is a command that was killed before its last fifth; cached is one whose output is gone.
        """
        command, state = name.split()
        with self._lock:
            whole = self.whole(command)
            if name in self._made:
                return
            if state == "cached":
                place = copy_of(whole.place, self._new_folder())
                shutil.rmtree(place / OUT, ignore_errors=True)
            else:
                place = self.new_place(command)
                run(place, words(command), partial(sabotage.signal_at_event, _last_checkpoint(whole)))
            self._made[name] = place


def _last_checkpoint(whole: Whole) -> int:
    return int(0.8 * whole.events)


def run_ranks(
    places: tuple[Path, Path],
    sabotages: tuple[Callable[[], None] | None, Callable[[], None] | None] = (None, None),
    flags: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
) -> list[Ended]:
    """`iwpo train` by two processes, each with its own place, sabotage and flags."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    commands: list[Command] = [
        begin(places[rank], [*words("train"), *flags[rank]], sabotages[rank], job | {"RANK": str(rank)})
        for rank in range(2)
    ]
    return end(*commands)


def _must_succeed(ended: Ended) -> None:
    if ended.code != 0:
        raise RuntimeError(f"a command that nobody disturbs ended with {ended.code} in {os.getcwd()}: {ended.said}")
