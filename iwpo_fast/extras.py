"""Packages that only some settings need."""

from __future__ import annotations

from importlib.util import find_spec


def check_installed(package: str, setting: str, *, extra: str) -> None:
    """Raise ValueError if the package is missing that `setting`, such as "optim.name is adamw_8bit", needs."""
    if find_spec(package) is None:
        raise ValueError(f"{setting} but {package} is not installed: pip install 'iwpo-fast[{extra}]'.")
