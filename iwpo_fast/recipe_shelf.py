"""The command `iwpo recipes`: the recipes that come with the package, and copies of them."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import yaml

from iwpo_fast.command_config import RecipesConfig
from iwpo_fast.files import check_folder, written_aside
from iwpo_fast.limits import check_limits
from iwpo_fast.nearest import begun, nearest
from iwpo_fast.paths import expanded
from iwpo_fast.terminal import escaped

SHELF = Path(__file__).parent / "recipes"
OF_PIPELINE = {"weights", "candidates", "rewards", "clusters", "arms"}
"""Settings of `iwpo run` that `iwpo train` does not have."""

GLUE = "\0"
"""Stands between a setting and its value while lines are broken."""
WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def show_or_copy(config: RecipesConfig) -> None:
    """Print every recipe with what its first lines say, or copy one.

    Raises:
        ValueError: there is no such recipe, or a file where it is to go.
    """
    check_limits(config)
    if config.copy is not None:
        _copy(config.copy, config.to)
        return
    if config.to is not None:
        raise ValueError(f"to is {config.to} but no recipe is to be copied: name one with --copy.")
    for name, path in recipes().items():
        print(f"{name}, for iwpo {command_of(path)}")
        print("".join(f"  {line}\n" for line in _fitted(_says(path))))
    says = "iwpo recipes --copy NAME puts one into this folder, to be changed and given as --config."
    print("\n".join(_fitted([says])))


def recipes() -> dict[str, Path]:
    """Files of the recipes by name."""
    return {path.stem: path for path in sorted(SHELF.glob("*.yaml"))}


def command_of(recipe: Path) -> str:
    """`run` or `train`, whichever the recipe is for."""
    return "run" if OF_PIPELINE & yaml.safe_load(recipe.read_text(encoding="utf-8")).keys() else "train"


def _says(recipe: Path) -> list[str]:
    """The comment that it begins with, whose commands name it as it is called once it is copied."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    return [line.removeprefix("# ").replace("recipes/", "") for line in comment]


def _fitted(lines: list[str]) -> list[str]:
    """Lines that fit a terminal behind two spaces; elsewhere as they are, because a file has no width."""
    if not sys.stdout.isatty():
        return lines
    width = max(40, shutil.get_terminal_size().columns) - 2
    fitted: list[str] = []
    for is_prose, some in groupby(lines, key=lambda line: not line.startswith(" ")):
        passage = list(some)
        fitted += textwrap.wrap(" ".join(passage), width) if is_prose else _example(passage, width)
    return fitted


def _example(lines: list[str], width: int) -> Iterator[str]:
    """Lines that are to be copied: a command breaks between settings, behind a backslash."""
    for line in re.sub(r" \\\n *", " ", "\n".join(lines)).split("\n"):
        goes_on = " \\" if line.split()[0] in ("iwpo", "torchrun") else ""
        within = width - len(goes_on) if len(line) > width else width
        settings = re.sub(r"(--\S+) (?!-)", rf"\1{GLUE}", line)
        broken = textwrap.wrap(settings, within, subsequent_indent="    ", **WHOLE_WORDS)
        *others, last = (one.replace(GLUE, " ") for one in broken)
        yield from (f"{other}{goes_on}" for other in others)
        yield last


def _copy(name: str, to: str | None) -> None:
    shelf = recipes()
    name = name.removesuffix(".yaml")
    if name not in shelf:
        meant = begun(name, shelf) or nearest(name, shelf)
        question = f" did you mean {meant}?" if meant else ""
        raise ValueError(f"there is no recipe {name}:{question} choose one of {', '.join(shelf)}.")
    path = expanded(to or f"{name}.yaml")
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists, and what is in it would be lost: give another file with --to.")
    check_folder("to", path.parent)
    with written_aside(path) as aside:
        aside.write_bytes(shelf[name].read_bytes())
    print(escaped(f"{path} is written: iwpo {command_of(path)} --config {path}"))
