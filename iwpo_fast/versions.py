"""Versions of installed packages, as records of runs keep them."""

from __future__ import annotations

import functools
import importlib.metadata
from importlib.metadata import PackageNotFoundError

version = functools.cache(importlib.metadata.version)  # which reads a file, and every stage asks anew


def version_of(package: str) -> str:
    """The version of a package; "unknown" if it is absent or has no metadata, as on a bare PYTHONPATH."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
