"""Paths as settings give them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with the home of a user in the place of its ~; where there is no such user, the path as it stands."""
    return Path(os.path.expanduser(path))
