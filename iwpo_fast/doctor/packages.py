"""Which of the packages that the project names are installed, in which version."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from packaging.requirements import Requirement

NOT_OF_USERS = ("test", "docs", "peers")
"""Extras of people who work on the library."""


class Package(NamedTuple):
    """A package that the project asks for.

    Attributes:
        wanted: its name and range of versions.
        extra: the extra that asks for it; empty for what the library needs.
        installed: its version; None where it is absent.
    """

    wanted: Requirement
    extra: str
    installed: str | None

    @property
    def is_in_range(self) -> bool:
        return self.installed is not None and self.wanted.specifier.contains(self.installed, prereleases=True)

    def __str__(self) -> str:
        """What it is called, its version, and what is wrong with that."""
        if self.installed is None:
            return f"{self.wanted.name}: not installed"
        return f"{self.wanted.name} {self.installed}" + ("" if self.is_in_range else f", not {self.wanted.specifier}")


def packages() -> list[Package]:
    """Everything that the metadata of the installed project asks for here; empty where there is none."""
    try:
        asked = [Requirement(text) for text in requires("iwpo-fast") or ()]
    except PackageNotFoundError:
        return []
    return [Package(each, extra, _installed(each.name)) for each in asked for extra in _extras_of(each)]


def _extras_of(requirement: Requirement) -> Iterator[str]:
    """The extras under which a requirement counts on this machine, or the empty name where it always does."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        yield ""
        return
    for word in str(requirement.marker).replace('"', " ").replace("'", " ").split():
        if word not in NOT_OF_USERS and "extra ==" in str(requirement.marker) and _counts(requirement, word):
            yield word


def _counts(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
