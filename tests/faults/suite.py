"""All faults by the hundred: `make faults`. One case again: `python tests/faults kills --first 17 --cases 1`."""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import NamedTuple

import damages
import disks
import fuzzes
import kills
import rank_faults
import shared
import table
import torch
from verdicts import FAULTS, Outcome, Verdict
from wholes import Wholes

from benchmarks.environment import describe

ROOT = Path(__file__).resolve().parents[2]

Case = Callable[[random.Random, Wholes], Outcome]


class Kind(NamedTuple):
    """One kind of fault: a function that draws and judges one case, and how many there are."""

    case: Case
    cases: int
    how: Callable[[], str]


def _how_of_disks() -> str:
    return "a tmpfs with too little room, for bytes or for files" if disks.may_mount() else "no file may be large"


KINDS = {
    "kills": Kind(kills.case, 200, lambda: "SIGKILL before a file event, or by the processor's time; every command"),
    "disks": Kind(disks.case, 60, _how_of_disks),
    "damages": Kind(damages.case, 300, lambda: "one bit or a cut, in a run, a cache, or what a command reads"),
    "shared": Kind(shared.case, 30, lambda: "two commands at once on one cache or folder"),
    "ranks": Kind(rank_faults.case, 40, lambda: "one of two killed, stopped, or given something else"),
}


def outcome_of(kind: str, seed: int, number: int, wholes: Wholes) -> Outcome:
    """One case; the same seed and number draw the same."""
    try:
        return KINDS[kind].case(random.Random(f"{kind}-{seed}-{number}"), wholes)
    except Exception:
        return Outcome(Verdict.CRASH, "the case itself could not be made", traceback.format_exc())


def tried(kind: str, numbers: Sequence[int], wholes: Wholes, options: argparse.Namespace) -> table.Record:
    """The record of some cases of one kind; none is begun once the time of the kind is over."""
    began = time.monotonic()

    def outcome(number: int) -> Outcome | None:
        is_over = time.monotonic() > began + options.seconds
        return None if is_over else outcome_of(kind, options.seed, number, wholes)

    outcomes: dict[str, dict[str, str]] = {}
    with ThreadPoolExecutor(options.workers) as pool:
        for number, found in zip(numbers, pool.map(outcome, numbers), strict=True):
            if found is not None:
                outcomes[str(number)] = found._asdict() | {"more": without_places(found.more)}
                print(f"{kind} {number}: {found.verdict}: {found.what}", flush=True)
                print(found.more if found.verdict in FAULTS else "", end="", flush=True)
    return {"how": KINDS[kind].how(), "seed": options.seed, "outcomes": outcomes, "seconds": time.monotonic() - began}


def without_places(said: str) -> str:
    """The same without the folders of this machine in which cases lie, as results that are kept have it."""
    return re.sub(r"(?:/[\w.-]+)*/faults-\w+/(place-\d+)", r"\1", said)


def main(words: Sequence[str] | None = None) -> int:
    options = _options(words)
    facts = describe(torch.device("cpu"), None)
    path = options.out / f"faults-{date.today().isoformat()}.json"
    faults = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        wholes = Wholes(Path(folder))
        for kind in options.kinds:
            record = _tried(kind, wholes, options)
            table.add(path, facts, kind, record)
            faults += table.number_of_faults(record)
    print(f"{faults} faults; the table is {path.with_suffix('.md')}")
    return 1 if faults else 0


def _tried(kind: str, wholes: Wholes, options: argparse.Namespace) -> table.Record:
    if kind in fuzzes.FILES:
        return fuzzes.tried(kind, options.workers)
    cases = KINDS[kind].cases if options.cases is None else options.cases
    return tried(kind, range(options.first, options.first + cases), wholes, options)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=[*KINDS, *fuzzes.FILES], help="all of them where none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each kind")
    parser.add_argument("--cases", type=int, help="of each kind")
    parser.add_argument("--workers", type=int, default=2, help="cases at once")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no case of a kind is begun")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the table")
    options = parser.parse_args(words)
    unknown = set(options.kinds) - {*KINDS, *fuzzes.FILES}
    if unknown:
        parser.error(f"unknown kind {', '.join(sorted(unknown))}: choose from {', '.join([*KINDS, *fuzzes.FILES])}")
    return options
