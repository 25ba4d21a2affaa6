"""Paths as settings give them."""

from __future__ import annotations

import os
from pathlib import Path


def looks_local(path: str) -> bool:
    """Whether it can be no id of the hub, which has one slash at most and begins with a letter or a digit."""
    return path.count("/") > 1 or path.startswith((".", "/", "~"))


def expanded(path: str | Path) -> Path:
    """The path with the home of a user in the place of its ~; where there is no such user, the path as it stands."""
    return Path(os.path.expanduser(path))
