"""The packages that are installed here: against their pins in constraints.txt, and as a bill of materials.

`python .ci/packages.py audit` says what does not agree, and `python .ci/packages.py sbom` prints CycloneDX 1.5
(https://cyclonedx.org/docs/1.5/json). Both read metadata on this machine and need no network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
NAME = "iwpo-fast"
EXTRAS = ("test", "peers")
"""Of the project, which the tests install beside what it needs."""


def pins(text: str) -> dict[str, Version]:
    """By canonical name, the versions in constraints.txt.

    Raises:
        ValueError: a line pins no version.
    """
    found: dict[str, Version] = {}
    for line in text.splitlines():
        if not (stated := line.partition("#")[0].strip()):
            continue
        name, equal, version = stated.partition("==")
        if not equal:
            raise ValueError(f"constraints.txt has {stated}, which is no single version: write NAME==VERSION.")
        found[canonicalize_name(name)] = Version(version)
    return found


def required(project: dict[str, Any]) -> list[Requirement]:
    """What the project needs to run and to be tested, on this platform."""
    optional = project["optional-dependencies"]
    stated = [*project["dependencies"], *(one for extra in EXTRAS for one in optional[extra])]
    return [one for one in map(Requirement, stated) if one.marker is None or one.marker.evaluate({"extra": ""})]


def disagreements(project: dict[str, Any], pinned: dict[str, Version]) -> Iterator[str]:
    """One sentence each: requirements without a pin or outside it, and installed versions that are not the pinned."""
    for requirement in required(project):
        pin = pinned.get(canonicalize_name(requirement.name))
        if pin is None:
            yield f"{requirement.name} has no pin: add one to constraints.txt."
        elif pin not in requirement.specifier:
            asked = requirement.specifier
            yield f"{requirement.name} is pinned to {pin}, and the project asks for {asked}: align them."
    for name, pin in pinned.items():
        if (found := installed(name)) is not None and Version(found.version).public != pin.public:
            yield f"{name} {found.version} is installed, and {pin} is pinned: install with -c constraints.txt."


def installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def bill() -> dict[str, Any]:
    """What the project needs to run, with all that this needs in turn, as it is installed here."""
    found = needed(NAME)
    refs = {name: f"pkg:pypi/{name}@{one.version}" for name, one in found.items()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(NAME, found[NAME], "application")},
        "components": [component(name, found[name], "library") for name in sorted(found) if name != NAME],
        "dependencies": [
            {"ref": refs[name], "dependsOn": sorted(refs[one] for one in needs(found[name]) if one in refs)}
            for name in sorted(found)
        ],
    }


def component(name: str, found: Distribution, kind: str) -> dict[str, Any]:
    ref = f"pkg:pypi/{name}@{found.version}"
    about = {"type": kind, "bom-ref": ref, "name": name, "version": found.version, "purl": ref}
    expression, free = found.metadata.get("License-Expression"), found.metadata.get("License")
    if expression:
        return about | {"licenses": [{"expression": expression}]}
    return about | ({"licenses": [{"license": {"name": free.splitlines()[0]}}]} if free else {})


def needed(name: str) -> dict[str, Distribution]:
    """By canonical name, a distribution and all that it needs in turn; what is absent here is left out."""
    found: dict[str, Distribution] = {}
    left = [name]
    while left:
        one = left.pop()
        if one not in found and (there := installed(one)) is not None:
            found[one] = there
            left += needs(there)
    return found


def needs(found: Distribution) -> list[str]:
    """Canonical names of what a distribution requires on this platform, without its extras."""
    stated = map(Requirement, found.requires or ())
    return [canonicalize_name(one.name) for one in stated if one.marker is None or one.marker.evaluate({"extra": ""})]


def audit() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wrong = list(disagreements(project, pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))))
    print("\n".join(wrong) or "constraints.txt agrees with pyproject.toml and with what is installed.")
    if shutil.which("pip-audit") is None:
        print("Known vulnerabilities were not looked for: pip-audit, which asks a service for them, is not installed.")
        return bool(wrong)
    asked = subprocess.run(["pip-audit", "--requirement", str(ROOT / "constraints.txt"), "--no-deps"])
    return bool(wrong) or asked.returncode


if __name__ == "__main__":
    if sys.argv[1:] == ["audit"]:
        sys.exit(audit())
    if sys.argv[1:] != ["sbom"]:
        sys.exit("packages.py: error: say audit or sbom.")
    print(json.dumps(bill(), indent=2))
