"""Why the arguments of a command are refused, as one sentence that names the setting and says what to do.

The arguments, the recipe and the types of the configuration say what is wrong. The messages of jsonargparse are not
read, because they differ between its versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin

import yaml

from iwpo_fast.limits import groups_of, hints_of, is_allowed, members_of, refuse, refuse_moved
from iwpo_fast.recipe import load_recipe

WITHOUT_VALUE = {"help", "print_config"}


def explain(command: str, words: Sequence[str], config: type, hints: Mapping[str, Any]) -> None:
    """Raise ValueError with the first mistake; none is found where only jsonargparse knows it.

    Args:
        words: what follows the command.
        config: its configuration.
        hints: types of all that can be set, the fields of the configuration and options beside them.
    """
    given = set[str]()
    try:
        for name, text in _flags(words):
            if name == "config":
                check_settings(hints, _recipe(text), given)
            else:
                _check_flag(hints, name, text, given)
    except KeyError as unknown:
        raise ValueError(f"unknown setting {unknown.args[0]}: iwpo {command} --help lists them.") from None
    for name in _required(config):
        if name not in given:
            raise ValueError(f"{name} is missing: give --{name} or set it in the recipe.")


def check_settings(hints: Mapping[str, Any], settings: Mapping[Any, Any], given: set[str] | None = None) -> None:
    """Check a mapping of settings, which may hold further mappings.

    Args:
        hints: types of the settings.
        given: takes the full name of each.

    Raises:
        KeyError: with the full name of a setting that there is not.
        ValueError: one sentence on a value that cannot be.
    """
    for name, value in settings.items():
        _check(hints, str(name), value, set() if given is None else given)


def _check(hints: Mapping[str, Any], name: str, value: Any, given: set[str]) -> None:
    group, hint = _find(hints, name)
    given.add(name)
    if isinstance(value, dict) and groups_of(hint):
        for key, inner in value.items():
            _check(hints, f"{name}.{key}", inner, given)
    elif not is_allowed(hint, value):
        refuse_moved(group, name, value)
        refuse(name, hint, value)


def _check_flag(hints: Mapping[str, Any], name: str, text: str, given: set[str]) -> None:
    _, hint = _find(hints, name)
    value = text if is_allowed(hint, text) else _loaded(text)
    if is_dataclass(hint) and not isinstance(value, dict):
        raise ValueError(f"{name} is a group of settings: set them one by one, such as --{name}.NAME VALUE.")
    _check(hints, name, value, given)


def _find(hints: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], Any]:
    """Types of the group that a setting is in, and its own type; `object` for what is inside a mapping."""
    *parents, key = name.split(".")
    for parent in parents:
        hint = hints.get(parent)
        if any(get_origin(member) is dict for member in members_of(hint)):
            return {}, object
        if not groups_of(hint):
            raise KeyError(name)
        hints = hints_of(groups_of(hint)[0])
    if key not in hints:
        refuse_moved(hints, name, None)
        raise KeyError(name)
    return hints, hints[key]


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
        yield name.removesuffix("+"), value  # --NAME+ adds to a list


def _required(config: type, group: str = "") -> Iterator[str]:
    """Names of the settings without a default."""
    hints = hints_of(config)
    for field in fields(config):
        name = f"{group}{field.name}"
        if is_dataclass(hints[field.name]):
            yield from _required(hints[field.name], f"{name}.")
        elif field.default is MISSING and field.default_factory is MISSING:
            yield name


def _recipe(path: str) -> dict[Any, Any]:
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
