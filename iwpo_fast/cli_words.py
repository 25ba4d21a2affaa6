"""What people type in short, written out as the parser takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from iwpo_fast.limits import hint_at, is_allowed
from iwpo_fast.recipe import load_recipe

OBJECTIVE = "--objective"
UNNAMED = {"report": "--run"}
"""Settings that may stand behind their command without a name."""


def written_out(command: str, words: Sequence[str], hints: Mapping[str, Any]) -> list[str]:
    """The words behind a command: `--dry_run` with its `true`, and `--objective simpo` as the name that it sets.

    Args:
        command: some have a setting that may stand first without its name, as in `report runs/x`.
        hints: types of all that can be set, as of `hints_of`.
    """
    unnamed = command in UNNAMED and words and not words[0].startswith("-")
    return list(_written_out([UNNAMED[command], *words] if unnamed else words, hints))


def _written_out(words: Sequence[str], hints: Mapping[str, Any]) -> Iterator[str]:
    for place, word in enumerate(words):
        follower = words[place + 1] if place + 1 < len(words) else "--"
        flag, equals, value = word.partition("=")
        if not equals and follower.startswith("--") and _is_switch(word, hints):
            yield f"{word}=true"
        elif flag == OBJECTIVE and "objective" in hints and _names_objective(value if equals else follower):
            yield f"{OBJECTIVE}.name{equals}{value}"
        else:
            yield word


def _is_switch(word: str, hints: Mapping[str, Any]) -> bool:
    hint = hint_at(hints, word.removeprefix("--"))
    return word.startswith("--") and hint is not None and is_allowed(hint, True)


def _names_objective(text: str) -> bool:
    """Whether it is a name or a mixture, and no group of settings."""
    try:
        return set(load_recipe(f"objective: {text}")["objective"]) == {"name"}
    except (yaml.YAMLError, TypeError):
        return False
