"""Two commands at once on one cache, one of them perhaps killed, or in one folder: the same bytes, or one sentence."""

from __future__ import annotations

import random
import time

from children import begin, end, run
from kills import drawn_kill
from places import CACHE, CACHING, COMMANDS, words
from verdicts import FAULTS, KILLED, Outcome, Verdict, judge
from wholes import Wholes


def case(chance: random.Random, wholes: Wholes) -> Outcome:
    return _one_folder(chance, wholes) if chance.random() < 0.2 else _one_cache(chance, wholes)


def _one_cache(chance: random.Random, wholes: Wholes) -> Outcome:
    commands = [chance.choice(CACHING) for _ in range(2)]
    places = [wholes.new_place(command) for command in commands]
    (places[0] / CACHE).mkdir()
    (places[1] / CACHE).symlink_to(places[0] / CACHE)
    how, kill = drawn_kill(chance, wholes.whole(commands[0])) if chance.random() < 0.5 else ("", None)
    what = f"{' and '.join(commands)} on one cache{', the first killed ' if how else ''}{how}"
    first = begin(places[0], words(commands[0]), kill)
    time.sleep(chance.choice((0, chance.random())))
    ended = end(first, begin(places[1], words(commands[1])))
    if ended[0].code in KILLED:
        ended[0] = run(places[0], words(commands[0]))
    outcomes = [judge(ended[i], places[i], wholes.whole(commands[i]).results, what) for i in range(2)]
    for place in places:
        wholes.remove(place)
    return _worst(outcomes)


def _one_folder(chance: random.Random, wholes: Wholes) -> Outcome:
    command = chance.choice(COMMANDS)
    place = wholes.new_place(command)
    what = f"{command} twice in one folder"
    first = begin(place, words(command))
    time.sleep(chance.random())
    ended = end(first, begin(place, words(command)))
    whole = wholes.whole(command).results
    outcomes = [judge(one, place, whole, what) for one in ended]
    wholes.remove(place)
    return _worst(outcomes)


def _worst(outcomes: list[Outcome]) -> Outcome:
    """The first fault, or the first sentence, or the first of all."""
    for verdicts in (FAULTS, (Verdict.SENTENCE,)):
        for outcome in outcomes:
            if outcome.verdict in verdicts:
                return outcome
    return outcomes[0]
