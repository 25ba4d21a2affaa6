"""A few sentences on what training has done, from the intervals alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

from iwpo_fast.evaluation.arms import FIRST, OWN, Row, first_words
from iwpo_fast.report.numbers import interval, percent, points
from iwpo_fast.report.preferences import Preference, preferences
from iwpo_fast.report.run_files import RunFiles
from iwpo_fast.words import several


def verdict(run: RunFiles) -> str:
    """The sentences; for a run that is not finished, what is still to do."""
    if run.unfinished:
        return f"This run has not finished: {', '.join(run.unfinished)} still to do."
    found = preferences(run)
    if not found:
        return "No pair was held out, so nothing can be said of what training has done."
    return sentences(found[0], run.arms())


def sentences(all_pairs: Preference, arms: Mapping[str, Row]) -> str:
    """The sentences of a finished run, from its held-out pairs and the arms beside it, which may be none."""
    return " ".join(filter(None, [_after(all_pairs), _before(all_pairs), _difference(all_pairs), _beside_dpo(arms)]))


def pairs_words(one: Preference) -> str:
    """How many pairs, and of how many prompts where these are fewer."""
    of = f" of {several(one.prompts, 'prompt')}" if one.prompts < one.pairs else ""
    return f"{several(one.pairs, 'held-out pair')}{of}"


def _after(one: Preference) -> str:
    known = "" if math.isnan(one.low) else f" (95\u00a0% interval {interval(one.low, one.high)})"
    return f"After training the better answer is preferred in {percent(one.after)} of {pairs_words(one)}{known}."


def _before(one: Preference) -> str:
    return f"Before: {percent(one.before)}{', which is chance' if one.is_chance else ''}."


def _difference(one: Preference) -> str:
    """What the interval allows."""
    if math.isnan(one.low):
        return "Pairs of one prompt have no interval, so no difference is shown."
    if one.is_better or one.is_worse:
        return f"That is {'better' if one.is_better else 'worse'} than {'chance' if one.is_chance else 'before'}."
    return "These pairs show no difference."


def _beside_dpo(arms: Mapping[str, Row]) -> str:
    if OWN not in arms or "difference" not in arms[OWN]:
        return ""
    first = first_words(arms)
    if arms[FIRST].get("same_as") == OWN:
        return f"{first[0].upper()}{first[1:]} is the same training."
    _, low, high = arms[OWN]["difference"]
    if low > 0 or high < 0:
        return f"It is {'better' if low > 0 else 'worse'} than {first}, by {points(arms[OWN]['difference'])}."
    return f"Beside {first} it is {points(arms[OWN]['difference'])}: no difference is shown."
