"""Disks that fill: one sentence, or all fits; and with more room the same command comes to the bytes of a whole one.

A disk is a `tmpfs` of a drawn size or number of files where one may be mounted. Where not, no file may grow beyond a
drawn size, which the kernel refuses in the same calls with another reason (EFBIG in the place of ENOSPC).
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import sabotage
from children import run
from places import DISK, WRITING, words
from verdicts import FAULTS, Outcome, Verdict, judge
from wholes import Whole, Wholes

PAGE = 4096
MANY = "size=256m,nr_inodes=9999"


def case(chance: random.Random, wholes: Wholes) -> Outcome:
    command = chance.choice(WRITING)
    whole, place = wholes.whole(command), wholes.new_place(command)
    outcome = (
        _on_small_disk(chance, command, whole, place) if may_mount() else _small_files(chance, command, whole, place)
    )
    wholes.remove(place)
    return outcome


def _on_small_disk(chance: random.Random, command: str, whole: Whole, place: Path) -> Outcome:
    room = _drawn_room(chance, whole.place / DISK)
    with mounted(place / DISK, room):
        what = f"{command} on a disk of {room}"
        first = judge(run(place, words(command)), place, whole.results, what)
        if first.verdict != Verdict.SENTENCE:
            return first
        remount(place / DISK, MANY)
        return _then(judge(run(place, words(command)), place, whole.results, f"{what}, then with room"), first)


def _small_files(chance: random.Random, command: str, whole: Whole, place: Path) -> Outcome:
    largest = max(len(content) for content in whole.results.values())
    size = round(8192 * (1.1 * largest / 8192) ** chance.random())  # more than what it says
    what = f"{command} with no file above {size} bytes"
    limited = run(place, words(command), partial(sabotage.small_files, size))
    first = judge(limited, place, whole.results, what)
    if first.verdict != Verdict.SENTENCE:
        return first
    return _then(judge(run(place, words(command)), place, whole.results, f"{what}, then without that"), first)


def _then(second: Outcome, first: Outcome) -> Outcome:
    """The sentence of the first, if the second is as good as a whole one."""
    if second.verdict == Verdict.SENTENCE:
        return Outcome(Verdict.DIFFERENT, second.what, second.more)  # it has to go on
    return second if second.verdict in FAULTS else first


def _drawn_room(chance: random.Random, used: Path) -> str:
    """Some of what the command takes in the end, up to what is enough for it: in bytes, or in files."""
    files = [path for path in used.rglob("*") if not path.is_symlink()]
    share = chance.uniform(0.02, 1.3)
    if chance.random() < 0.25:
        return f"size=256m,nr_inodes={2 + round(share * len(files))}"
    pages = sum(1 + path.stat().st_size // PAGE for path in files if path.is_file())
    return f"size={(1 + round(share * pages)) * PAGE // 1024}k"


@contextlib.contextmanager
def mounted(place: Path, room: str) -> Iterator[None]:
    _call("mount", "-t", "tmpfs", "-o", room, "none", str(place))
    try:
        yield
    finally:
        _call("umount", "-l", str(place))


def remount(place: Path, room: str) -> None:
    _call("mount", "-o", f"remount,{room}", str(place))


@cache
def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as name:
        try:
            with mounted(Path(name), "size=4k"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def _call(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
