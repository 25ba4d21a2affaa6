"""The pins of constraints.txt, and the bill of materials of what is installed."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "packages.py"
PACKAGES: dict[str, Any] = runpy.run_path(str(SCRIPT))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = PACKAGES["pins"]((ROOT / "constraints.txt").read_text())


def disagreements(text: str) -> list[str]:
    return list(PACKAGES["disagreements"](PROJECT, PACKAGES["pins"](text)))


def test_every_requirement_is_pinned_inside_its_range_and_to_what_is_installed() -> None:
    assert list(PACKAGES["disagreements"](PROJECT, PINS)) == []


def test_a_requirement_without_a_pin_is_named() -> None:
    assert "numpy has no pin: add one to constraints.txt." in disagreements("torch==2.13.0\n")


def test_a_pin_outside_the_range_that_is_asked_for_is_named() -> None:
    assert any(
        line.startswith("transformers is pinned to 4.0, and the project") for line in disagreements("transformers==4.0")
    )


def test_another_version_than_the_pinned_one_is_named() -> None:
    assert any(
        line.endswith("and 0.0.1 is pinned: install with -c constraints.txt.")
        for line in disagreements("pyyaml==0.0.1")
    )


def test_a_range_is_no_pin() -> None:
    with pytest.raises(ValueError, match="has numpy>=2, which is no single version"):
        PACKAGES["pins"]("numpy>=2")


@pytest.mark.slow
def test_the_bill_of_materials_names_all_that_the_project_needs_once() -> None:
    printed = subprocess.run([sys.executable, SCRIPT, "sbom"], capture_output=True, text=True, check=True).stdout
    bill = json.loads(printed)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    names = [component["name"] for component in bill["components"]]
    assert len(set(names)) == len(names)
    assert {"torch", "transformers", "numpy", "jinja2"} <= set(names) and "pytest" not in names
    refs = {component["bom-ref"] for component in (*bill["components"], bill["metadata"]["component"])}
    assert {link["ref"] for link in bill["dependencies"]} == refs
    assert all(set(link["dependsOn"]) <= refs for link in bill["dependencies"])
    of_project = next(link for link in bill["dependencies"] if link["ref"].startswith("pkg:pypi/iwpo-fast@"))
    assert any(ref.startswith("pkg:pypi/torch@") for ref in of_project["dependsOn"])
