"""One flipped bit, or a cut, in any file of a run or a cache: the same bytes in the end, or one sentence."""

from __future__ import annotations

import random
from pathlib import Path

from children import run
from places import ADAPTER, BASE, COMMANDS, DISK, GIVEN, JUDGE, OUT, READING, results, words
from verdicts import Outcome, Verdict, differences, judge
from wholes import Wholes

DAMAGED = tuple(command for command in COMMANDS if command != "recipes")
"""Those that find a file of ours."""
RUN = (f"{GIVEN}/run/{name}" for name in ("train/model", "weights", "evaluation"))
READ = (BASE, f"{ADAPTER}/model", JUDGE, *RUN)
SITUATIONS = ("finished", "interrupted", "cached")
UNREAD = (
    *("report.html", "run.json", "config.yaml", "ledger.json", "held_out_ledger.json", "metrics.jsonl"),
    *("checkpoints", "held_out"),
)
"""Files and folders of a training that is finished, which nothing but a training that goes on would read; that reads
the newest checkpoint, and the margins of held-out pairs are computed anew where their file is damaged."""


def case(chance: random.Random, wholes: Wholes) -> Outcome:
    command, situation = chance.choice(DAMAGED), chance.choice(SITUATIONS)
    wholes.situation(f"{command} {situation}")
    whole, place = wholes.whole(command), wholes.copy(f"{command} {situation}")
    files = [path for path in (place / DISK).rglob("*") if path.is_file()]
    if command in READING:
        wholes.own_given(place)
        files += [path for folder in READ for path in (place / folder).rglob("*") if path.is_file()]
    path = chance.choice(sorted(path for path in files if path.stat().st_size))
    what = f"{command}, {situation}: {path.relative_to(place)} {damaged(chance, path)}"
    bad = path.read_bytes()
    outcome = judge(run(place, words(command)), place, whole.results, what)
    if outcome.verdict == Verdict.DIFFERENT and path.read_bytes() == bad and _is_unread(place, path, situation):
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


def _is_unread(place: Path, path: Path, situation: str) -> bool:
    inside = path.relative_to(place).parts
    unread = {"finished": UNREAD, "interrupted": UNREAD[-2:]}.get(situation, ())
    return inside[0] == DISK and not set(inside).isdisjoint(unread)
