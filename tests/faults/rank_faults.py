"""Jobs of two processes, one of which is killed, stopped or given something else: all end soon, in a sentence.

What goes on afterwards comes to the bytes of a whole job.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import sabotage
from children import Ended, Sabotage
from kills import drawn_kill
from places import CACHE, DISK, PAIRS
from verdicts import FAULTS, KILLED, Outcome, Verdict, fault_of, judge, sentences
from wholes import Whole, Wholes, run_ranks

SOON = 30.0
"""Seconds after the first end within which all end, by docs/reliability.md."""

FLAGS: tuple[tuple[str, ...], ...] = (
    ("--optim.lr", "0.01"),
    ("--optim.lr", "x"),
    ("--seed", "1"),
    ("--data.max_length", "32"),
    ("--model.tiny.layers", "2"),
    ("--checkpoint.every", "3"),
    ("--objective.beta", "-1"),
    ("--output_dir", f"{DISK}/other"),
    ("--no_such_setting", "1"),
    ("--data.path", "absent.jsonl"),
)


class Fault(NamedTuple):
    """What befalls one process of a job.

    Attributes:
        what: in words.
        sabotage: of the process.
        flags: beside those of the other.
        changed: another data file in its place, or None.
        goes_on: the same job can go on afterwards.
    """

    what: str
    sabotage: Sabotage | None = None
    flags: tuple[str, ...] = ()
    changed: Callable[[Path], None] | None = None
    goes_on: bool = False


def case(chance: random.Random, wholes: Wholes) -> Outcome:
    rank = chance.randrange(2)
    whole = wholes.whole(f"rank {rank}")
    fault = _drawn(chance, whole)
    what = f"rank {rank} of a training by two: {fault.what}"
    places = _two_places(wholes) if fault.changed else (wholes.new_place(),) * 2
    if fault.changed:
        fault.changed(places[rank])
    sabotages, flags = [None, None], [(), ()]
    sabotages[rank], flags[rank] = fault.sabotage, fault.flags  # type: ignore[call-overload]
    ended = run_ranks(places, tuple(sabotages), tuple(flags))  # type: ignore[arg-type]
    if all(one.code == 0 for one in ended):  # the sabotage was due after the end
        return judge(ended[0], places[0], whole.results, what)
    outcome = _ending(ended, what)
    if outcome.verdict not in FAULTS and fault.goes_on:
        again = judge(run_ranks(places)[0], places[0], whole.results, f"{what}, then the same job")
        outcome = outcome if _is_as_good(again) else again._replace(verdict=Verdict.DIFFERENT)
    for place in places:
        wholes.remove(place)
    return outcome


def _is_as_good(again: Outcome) -> bool:
    """Whether it came to the bytes of a whole job; a signal leaves a checkpoint of its own in the place of another."""
    if again.verdict == Verdict.DIFFERENT and "SIG" in again.what:
        return all(name.startswith("checkpoints/") for name in again.more.split(", "))
    return again.verdict == Verdict.SAME


def _drawn(chance: random.Random, whole: Whole) -> Fault:
    kind = chance.choice(("killed", "killed", "early", "stopped", "flags", "flags", "data"))
    if kind == "killed":
        how, kill = drawn_kill(chance, whole)
        return Fault(f"killed {how}, once they have met", partial(sabotage.once_met, kill), goes_on=True)
    if kind == "early":
        return Fault("killed before they have met", sabotage.killed_before_meeting, goes_on=True)
    if kind == "stopped":
        event, which = chance.randint(1, whole.events), chance.choice((signal.SIGTERM, signal.SIGUSR1))
        act = partial(sabotage.signal_at_event, event, which)
        return Fault(f"{which.name} before file event {event}", partial(sabotage.once_met, act), goes_on=True)
    if kind == "flags":
        flags = chance.choice(FLAGS)
        return Fault(" ".join(flags), flags=flags)
    row = chance.randrange(40)
    return Fault(f"row {row + 1} of its data is another", changed=partial(_another_row, row))


def _another_row(row: int, place: Path) -> None:
    lines = (place / PAIRS).read_text().splitlines()
    lines[row] = json.dumps(json.loads(lines[row]) | {"chosen": "another"})
    (place / PAIRS).write_text("\n".join(lines) + "\n")


def _two_places(wholes: Wholes) -> tuple[Path, Path]:
    """Two with one disk, as of two machines with a common file system."""
    places = (wholes.new_place(), wholes.new_place())
    (places[0] / CACHE).mkdir()
    (places[1] / DISK).rmdir()
    os.symlink(places[0] / DISK, places[1] / DISK)
    return places


def _ending(ended: Sequence[Ended], what: str) -> Outcome:
    """All have ended, soon after the first, and somebody has said why in one line."""
    said = "\n".join(f"rank {rank}, {one.code}: {one.said[-1500:]}" for rank, one in enumerate(ended))
    for one in ended:
        if one.code in KILLED:
            continue
        fault = fault_of(one)
        is_silent = fault == Verdict.CRASH and one.code in (2, 143) and not sentences(one)
        if fault and not is_silent:  # one process may leave the word to the other
            return Outcome(fault, what, said)
    times = [one.at for one in ended]
    if max(times) - min(times) > SOON:
        return Outcome(Verdict.HANG, what, f"{max(times) - min(times):.0f} s between the ends. {said}")
    if not any(sentences(one) for one in ended) or any(one.code == 0 for one in ended):
        return Outcome(Verdict.CRASH, what, said)
    return Outcome(Verdict.SENTENCE, what, next(line for one in ended for line in sentences(one)))
