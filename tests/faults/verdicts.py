"""What a case came to."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from children import Ended
from places import ONCE, results

ERROR = re.compile(r"^iwpo: (error( on rank \d+)?: \S.*\.|stopped by \S.*\.)$")
KILLED = (-signal.SIGKILL, -signal.SIGPROF)


class Verdict(StrEnum):
    SAME = "same bytes"
    UNREAD = "unread"  # a damaged file of a finished run, or an older checkpoint; all others are the same
    SENTENCE = "sentence"
    TRACEBACK = "traceback"
    CRASH = "crash"  # a signal that nobody sent, or an exit without a word
    HANG = "hang"
    DIFFERENT = "different"


FAULTS = (Verdict.TRACEBACK, Verdict.CRASH, Verdict.HANG, Verdict.DIFFERENT)


class Outcome(NamedTuple):
    """A verdict, what was done in the case, and what tells more where it is a fault."""

    verdict: Verdict
    what: str
    more: str = ""


def fault_of(ended: Ended) -> Verdict | None:
    """The fault by which a command ended that was not killed; None where it went well or ended in one sentence."""
    if ended.code is None:
        return Verdict.HANG
    if ended.code == 0:
        return None
    if "Traceback (most recent call last)" in ended.said:
        return Verdict.TRACEBACK
    return None if is_sentence(ended) else Verdict.CRASH


def is_sentence(ended: Ended) -> bool:
    """Whether it ended with one sentence, the last that it said, and the exit code that belongs to it."""
    found = sentences(ended)
    lines = [line for line in ended.said.splitlines() if line.strip()]
    return ended.code in (2, 143) and len(found) == 1 and lines[-1] == found[0] and found[0].isprintable()


def sentences(ended: Ended) -> list[str]:
    return [line for line in ended.said.splitlines() if ERROR.match(line)]


def judge(ended: Ended, place: Path, whole: Mapping[str, bytes], what: str) -> Outcome:
    """The outcome of a command that nobody killed: as good as `whole`, refused in a sentence, or a fault."""
    fault = fault_of(ended)
    if fault:
        return Outcome(fault, what, ended.said[-2000:])
    if ended.code != 0:
        return Outcome(Verdict.SENTENCE, what, sentences(ended)[0])
    other = list(differences(results(place), whole))
    return Outcome(Verdict.DIFFERENT if other else Verdict.SAME, what, ", ".join(other))


def judge_again(ended: Ended, place: Path, whole: Mapping[str, bytes], what: str) -> Outcome:
    """As `judge`, of a command that goes on; a sentence is for one that does not write over what is whole."""
    outcome = judge(ended, place, whole, what)
    if outcome.verdict == Verdict.SENTENCE:
        other = list(differences(results(place), whole))
        is_whole = what.startswith(ONCE) and not other
        return outcome if is_whole else outcome._replace(verdict=Verdict.DIFFERENT)
    return outcome


def differences(found: Mapping[str, bytes], whole: Mapping[str, bytes]) -> Iterator[str]:
    """Names of files that only one side has, or whose content differs."""
    return (name for name in sorted(found.keys() | whole.keys()) if found.get(name) != whole.get(name))
