"""One flipped bit, or a cut, in any file of a run or a cache: the same bytes in the end, or one sentence."""

from __future__ import annotations

import random
from pathlib import Path

from children import run
from places import COMMANDS, DISK, OUT, results, words
from verdicts import Outcome, Verdict, differences, judge
from wholes import Wholes

SITUATIONS = ("finished", "interrupted", "cached")
UNREAD = ("run.json", "config.yaml", "ledger.json", "held_out_ledger.json", "metrics.jsonl", "checkpoints")
"""Files and a folder of a training that is finished, which nothing but a training that goes on would read."""


def case(chance: random.Random, wholes: Wholes) -> Outcome:
    command, situation = chance.choice(COMMANDS), chance.choice(SITUATIONS)
    wholes.situation(f"{command} {situation}")
    whole, place = wholes.whole(command), wholes.copy(f"{command} {situation}")
    files = sorted(path for path in (place / DISK).rglob("*") if path.is_file() and path.stat().st_size)
    path = chance.choice(files)
    what = f"{command}, {situation}: {path.relative_to(place / DISK)} {damaged(chance, path)}"
    bad = path.read_bytes()
    outcome = judge(run(place, words(command)), place, whole.results, what)
    if outcome.verdict == Verdict.DIFFERENT and situation == "finished" and _is_unread(place, path, bad):
        others = set(differences(results(place), whole.results)) - {str(path.relative_to(place / OUT))}
        outcome = outcome if others else Outcome(Verdict.UNREAD, what)
    wholes.remove(place)
    return outcome


def damaged(chance: random.Random, path: Path) -> str:
    """Damage the file; what was done, in words."""
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    if chance.random() < 0.3:
        path.write_bytes(content[:place])
        return f"cut to {place} of {len(content)} bytes"
    bit = chance.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"with bit {bit} of byte {place} flipped, of {len(content)} bytes"


def _is_unread(place: Path, path: Path, bad: bytes) -> bool:
    inside = path.relative_to(place / DISK).parts
    return path.read_bytes() == bad and any(part in UNREAD for part in inside)
