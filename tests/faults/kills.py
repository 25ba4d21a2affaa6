"""Commands that are killed, some of them again as they go on: the last call comes to the bytes of a whole one."""

from __future__ import annotations

import random
from functools import partial

import sabotage
from children import Sabotage, run
from places import COMMANDS, words
from verdicts import KILLED, Outcome, judge_again
from wholes import Whole, Wholes


def case(chance: random.Random, wholes: Wholes) -> Outcome:
    command = chance.choice(COMMANDS)
    whole, place = wholes.whole(command), wholes.new_place(command)
    killed: list[str] = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        how, kill = drawn_kill(chance, whole)
        ended = run(place, words(command), kill)
        if ended.code not in KILLED:  # it was over before, as what is done already is not done again
            outcome = judge_again(ended, place, whole.results, f"{command} that goes on after a kill {_all(killed)}")
            return outcome if killed else outcome._replace(what=f"{command}, no kill: over before {how}")
        killed.append(how)
    outcome = judge_again(run(place, words(command)), place, whole.results, f"{command} after a kill {_all(killed)}")
    wholes.remove(place)
    return outcome


def drawn_kill(chance: random.Random, whole: Whole) -> tuple[str, Sabotage]:
    """A moment between the first and the last of a whole command, in words and as a sabotage."""
    if chance.random() < 0.5:
        event = chance.randint(1, whole.events)
        return f"before file event {event} of {whole.events}", partial(sabotage.signal_at_event, event)
    seconds = chance.uniform(0.02, 0.9 * whole.seconds)
    return f"after {seconds:.2f} s of the processor", partial(sabotage.killed_after, seconds)


def _all(killed: list[str]) -> str:
    return " and ".join(killed)
