"""A recipe of TRL's `trl dpo` or `trl kto` in the settings of `iwpo train`. TRL itself need not be installed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from iwpo_fast.integrations import trl_groups as of
from iwpo_fast.integrations.trl_names import DEFAULTS, OF_KTO, READ, SAME, Settings, is_lora
from iwpo_fast.integrations.trl_values import read_values


class Translated(NamedTuple):
    """A recipe of ours, by dotted names, and what could not be kept, a sentence each."""

    settings: Settings
    notes: list[str]

    def yaml(self) -> str:
        """As a file for `iwpo train --config`, with the notes in front."""
        nested: Settings = {}
        for name, value in self.settings.items():
            *parents, key = name.split(".")
            place = nested
            for parent in parents:
                place = place.setdefault(parent, {})
            place[key] = value
        head = "".join(f"# {note}\n" for note in self.notes)
        return head + yaml.safe_dump(nested, sort_keys=False)


def translated_file(path: str) -> Translated:
    """The recipe in a file.

    Raises:
        ValueError: the file cannot be read, or is no mapping of settings.
    """
    try:
        recipe = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise ValueError(f"from_trl {path} cannot be read ({reason}): give a YAML recipe of trl dpo.") from error
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        raise ValueError(f"from_trl {path} holds no settings: give a YAML recipe of trl dpo.")
    return translated(recipe)


def translated(recipe: Mapping[str, Any], processes: int | None = None) -> Translated:
    """A recipe of TRL's, with TRL's defaults for what it leaves out.

    Args:
        processes: that it is to run on; None takes `WORLD_SIZE`, or 1.

    Raises:
        ValueError: its loss cannot be had here, or a value is none that TRL takes.
    """
    given = read_values(recipe)
    if "activation_checkpointing" in given:
        given.setdefault("gradient_checkpointing", given.pop("activation_checkpointing"))
    if not given.keys().isdisjoint(OF_KTO):
        given.setdefault("loss_type", "kto")
    every = DEFAULTS | given
    processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
    notes: list[str] = []
    settings = {ours: every[theirs] for theirs, ours in SAME.items() if theirs in every and not is_lora(theirs)}
    if "max_length" in recipe and "max_length" not in given:
        notes.append(
            "max_length: null cuts nothing in TRL, and here a length must be set: data.max_length is "
            f"{every['max_length']}"
        )
    settings |= of.objective(every, notes) | of.steps(every, processes, notes) | of.model(every, notes)
    settings |= of.data(every, notes) | of.intervals(every, notes)
    settings |= of.moving(every, notes) | of.best(every, settings, notes) | of.hub(every, notes)
    notes += of.needless(given)
    read = READ | OF_KTO.keys() if settings["objective.name"] == "kto" else READ
    unread = sorted(given.keys() - read)
    notes += [f"{name}: {given[name]} has no counterpart here and is left out" for name in unread]
    return Translated(_in_order(settings), notes)


def _in_order(settings: Settings) -> Settings:
    """By group, in the order of the configuration."""
    parts = ("data", "model", "objective", "reference_sync", "optim", "log", "checkpoint")
    groups = (*parts, "output_dir", "seed", "push_to_hub")
    return dict(sorted(settings.items(), key=lambda item: groups.index(item[0].split(".")[0])))


def asked_for(arguments: Sequence[str]) -> str | None:
    """The file that `iwpo train --from_trl FILE` names; None for every other call.

    Raises:
        ValueError: it names none, or stands beside other settings.
    """
    flags = [word for word in arguments[1:] if word.partition("=")[0] == "--from_trl"]
    if list(arguments[:1]) not in (["train"], ["run"]) or not flags:
        return None
    *_, path = [word.removeprefix("--from_trl=") for word in arguments[1:]]
    if len(arguments) != (2 if "=" in flags[0] else 3) or path.startswith("--"):
        raise ValueError("from_trl takes one file and no other setting: write iwpo train --from_trl FILE > ours.yaml.")
    return path
