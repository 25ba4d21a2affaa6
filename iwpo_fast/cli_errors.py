"""Why the arguments of a command are refused, as one sentence that names the setting and says what to do.

The arguments, the recipe and the types of the configuration say what is wrong. The messages of jsonargparse are not
read, because they differ between its versions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from iwpo_fast.limits import check_settings, groups_of, hint_at, hints_of, is_allowed, names_of
from iwpo_fast.nearest import nearest
from iwpo_fast.recipe import load_recipe

WITHOUT_VALUE = {"help", "print_config"}


def explain(command: str, words: Sequence[str], config: type, hints: Mapping[str, Any]) -> None:
    """Raise ValueError with the first mistake; none is found where only jsonargparse knows it.

    Args:
        words: what follows the command.
        config: its configuration.
        hints: types of all that can be set, the fields of the configuration and options beside them.
    """
    given: list[Mapping[str, Any]] = []
    for name, text in _flags(words):
        given.append(_recipe(text) if name == "config" else _setting(hints, name, text))
        try:
            check_settings(hints, given[-1])
        except KeyError as unknown:
            raise _unknown(command, unknown.args[0], hints, "" if name == "config" else "--") from None
    for name in _missing(config, given):
        raise ValueError(f"{name} is missing: give --{name} or set it in the recipe.")


def _unknown(command: str, name: str, hints: Mapping[str, Any], dashes: str) -> ValueError:
    known = [each for each in names_of(hints) if ".experimental." not in each]
    meant = nearest(name, known)
    question = f" did you mean {dashes}{meant}?" if meant else ""
    return ValueError(f"unknown setting {name}:{question} iwpo {command} --help lists them.")


def no_command(name: str, commands: Collection[str]) -> ValueError:
    """The sentence about a command that does not exist."""
    meant = nearest(name, commands)
    question = f"did you mean iwpo {meant}? " if meant else ""
    *others, last = commands
    return ValueError(f"no such command: {question}choose iwpo {', '.join(others)} or {last}.")


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values, from `--NAME VALUE` and `--NAME=VALUE`."""
    left = iter(words)
    for word in left:
        if not word.startswith("--"):
            raise ValueError(f"{word} belongs to no setting: write --SETTING VALUE.")
        name, equals, value = word[2:].partition("=")
        if name in WITHOUT_VALUE:
            continue
        if not equals:
            value = next(left, "--")
            if value.startswith("--"):
                raise ValueError(f"{name} has no value: write --{name} VALUE.")
        if value == "--":  # which the parser takes for the end of all flags
            raise ValueError(f"{name} is --, which no setting may be: give another value.")
        yield name.removesuffix("+"), value  # --NAME+ adds to a list


def _setting(hints: Mapping[str, Any], name: str, text: str) -> dict[str, Any]:
    """A flag as a recipe would set it: `optim.lr` inside `optim`."""
    *parents, key = name.split(".")
    hint = hint_at(hints, name) or str
    value = text if not text or is_allowed(hint, text) else _loaded(text)  # the parser takes no text for null
    if is_dataclass(hint) and not isinstance(value, dict):
        raise ValueError(f"{name} is a group of settings: set them one by one, such as --{name}.NAME VALUE.")
    setting = {key: value}
    for parent in reversed(parents):
        setting = {parent: setting}
    return setting


def _missing(config: type, given: Sequence[Mapping[str, Any]], group: str = "") -> Iterator[str]:
    """Names of the settings without a default that nothing has given."""
    for field in fields(config):
        values = [settings[field.name] for settings in given if field.name in settings]
        hint = hints_of(config)[field.name]
        inside = [value for value in values if isinstance(value, dict)]
        if (inner := groups_of(hint)) and (inside or hint is inner[0]):
            yield from _missing(inner[0], inside, f"{group}{field.name}.")
        elif field.default is MISSING and field.default_factory is MISSING and not values:
            yield f"{group}{field.name}"


def _recipe(path: str) -> dict[str, Any]:
    if not Path(path).exists():
        raise ValueError(f"the recipe {path} does not exist: check its path.")
    if not Path(path).is_file():
        raise ValueError(f"the recipe {path} is not a file: give a YAML file.")
    try:
        recipe = load_recipe(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise ValueError("the recipe is not text: give a YAML file.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"the recipe is no valid YAML{place}: correct it there.") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    if not isinstance(recipe, dict):
        raise ValueError("the recipe holds no settings: write lines such as data: {path: pairs.jsonl}.")
    return recipe


def _loaded(text: str) -> Any:
    try:
        return load_recipe(text)
    except yaml.YAMLError:
        return text
