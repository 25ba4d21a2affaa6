"""The folder that a run or a pipeline writes to: what is where in it, and one process at a time."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from iwpo_fast.files import remove_leftovers

LOCK = "run.lock"
ROUND = "round-"
"""How the folders of rounds begin, which go on with their numbers from 1."""

_held: set[Path] = set()


class Inside:
    """A path inside a folder, as an attribute of it."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __get__(self, folder: OutputFolder, _: type[OutputFolder]) -> Path:
        return folder.path / self._place


@dataclass(frozen=True)
class OutputFolder:
    """A folder at `path`; subclasses name what is inside it.

    Attributes:
        OPENED: what a process leaves that has opened the folder and done no work in it.
        REPLACED: folders in it that are written aside and take the place of older ones.
    """

    OPENED: ClassVar[tuple[str, ...]] = (LOCK,)
    REPLACED: ClassVar[tuple[str, ...]] = ()
    path: Path

    @property
    def is_used(self) -> bool:
        """Whether it holds anything but leftovers of a process that was killed while it opened the folder."""
        return self.path.is_dir() and any(
            path.name not in self.OPENED and not (path.name.startswith(".") and path.name.endswith(".tmp"))
            for path in self.path.iterdir()
        )

    def refuse_links(self) -> None:
        """Raise ValueError if a folder that will be replaced is a link, because what it leads to would not be."""
        for name in self.REPLACED:
            if (self.path / name).is_symlink():
                raise ValueError(
                    f"{self.path / name} is a link, and a folder is to be put in its place: remove the link, or choose "
                    "another output_dir."
                )

    def take(self) -> None:
        """Make the folder, hold it, and remove what a killed process was writing in it.

        Raises:
            ValueError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        hold_folder(self.path)
        for place in (self.path, *(path for path in self.path.iterdir() if path.is_dir())):
            remove_leftovers(place)


def hold_folder(folder: Path) -> None:
    """Hold `folder`, which exists, until this process ends, however it ends.

    Raises:
        ValueError: another process holds it.
    """
    path = (folder / LOCK).resolve()
    if path in _held and path.exists():
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ValueError(
            f"another process is running in {folder}: wait for it, or choose another output_dir."
        ) from None
    _held.add(path)


def last_round(folder: Path) -> Path | None:
    """The folder of the last round in the folder of a run with rounds; None for any other."""
    numbers = [path.name.removeprefix(ROUND) for path in folder.glob(f"{ROUND}*") if (path / "manifest.json").exists()]
    rounds = [int(number) for number in numbers if number.isdecimal()]
    return folder / f"{ROUND}{max(rounds)}" if rounds else None


def not_ours(folder: Path, what: str) -> ValueError:
    """The sentence about a folder that holds something else than `what`."""
    return ValueError(f"output_dir {folder} exists and is not a {what}: choose another output_dir or empty it.")
