"""What `--help` shows: optional groups with their settings, experimental settings by their group alone."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from docstring_parser import parse
from jsonargparse import DefaultHelpFormatter

from iwpo_fast.limits import groups_of


class Help(DefaultHelpFormatter):
    """jsonargparse's own, which lists no setting of a group that may be null, such as `model.lora`."""

    def add_usage(self, usage: str | None, actions: Iterable[Action], *arguments: Any, **options: Any) -> None:
        super().add_usage(usage, [action for action in actions if not _is_hidden(action)], *arguments, **options)

    def add_argument(self, action: Action) -> None:
        if _is_hidden(action):
            return
        super().add_argument(action)
        for group in groups_of(getattr(action, "_typehint", None)):
            for setting in _settings(action.dest, group):
                super().add_argument(setting)


def _is_hidden(action: Action) -> bool:
    return ".experimental." in action.dest or action.dest.endswith(".help")


def _settings(name: str, group: type) -> Iterator[Action]:
    """The settings of a group as arguments that are shown and never parsed."""
    said = {parameter.arg_name: parameter.description for parameter in parse(group.__doc__ or "").params}
    for field in fields(group):
        full = f"{name}.{field.name}"
        text = f"{said[field.name]}{_default(field)}".replace("%", "%%")
        yield Action([f"--{full}"], full, metavar=field.name.upper(), help=text, default=SUPPRESS)


def _default(field: Field[Any]) -> str:
    if isinstance(field.default, int | float | str):
        return f" (default: {str(field.default).lower()})"
    return "" if field.default is MISSING else " (default: null)"
