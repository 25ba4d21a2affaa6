"""Paths as settings give them."""

from __future__ import annotations

import os
from pathlib import Path


def cache_of_user() -> Path:
    """`iwpo_fast` in $XDG_CACHE_HOME, which counts where it is absolute, or else in ~/.cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else expanded("~/.cache")) / "iwpo_fast"


def looks_local(path: str) -> bool:
    """Whether it can be no id of the hub, which has one slash at most and begins with a letter or a digit."""
    return path.count("/") > 1 or path.startswith((".", "/", "~"))


def reward_model_folder(path: str | Path) -> Path:
    """Where the reward model of `iwpo run` is: the folder itself, or that inside it if it is of a run."""
    folder = expanded(path)
    of_run = folder / "rewards" / "reward_model"
    return of_run if of_run.is_dir() else folder


def expanded(path: str | Path) -> Path:
    """The path with the home of a user in the place of its ~; where there is no such user, the path as it stands."""
    return Path(os.path.expanduser(path))
