"""Packages that only some settings, or only some uses, need."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any


class NotInstalled(ImportError):
    """A package that this use needs is missing; the message says what to install."""


def check_installed(package: str, setting: str, *, extra: str) -> None:
    """Raise ValueError if the package is missing that `setting`, such as "optim.name is adamw_8bit", needs."""
    if find_spec(package) is None:
        raise ValueError(f"{setting} but {package} is not installed: pip install 'iwpo-fast[{extra}]'.")


def needed(package: str, *, by: str) -> Any:
    """The imported package, for what the library's core can do without.

    Raises:
        NotInstalled: it is missing; `by`, such as "the command iwpo", begins the sentence.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise NotInstalled(f"{by} needs {package}, which is not installed: pip install {package}.") from None
