"""What the pages for contributors promise, and what is configured for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = list((ROOT / "docs").rglob("*.md"))
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(page.relative_to(ROOT).as_posix() for page in DOCS),
    "tests/faults/README.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_that_is_there(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    dead = [link for link in links if "://" not in link and not _is_there(page, link)]
    assert dead == []


def _is_there(page: str, link: str) -> bool:
    """Whether the file of a link exists, and has the heading that it names."""
    name, _, heading = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    if not target.exists():
        return False
    headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE) if heading else []
    return not heading or heading in [re.sub(r"[^\w\s-]", "", one.lower()).replace(" ", "-") for one in headings]


def test_every_page_is_in_the_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert set(_pages_of(menu)) == {page.relative_to(ROOT / "docs").as_posix() for page in DOCS}


def _pages_of(menu: list[dict[str, Any]]) -> Iterator[str]:
    for entry in menu:
        for page in entry.values():
            yield from [page] if isinstance(page, str) else _pages_of(page)


def test_the_systems_are_in_the_menu_by_their_names() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    (systems,) = [part for entry in menu for name, part in entry.items() if name == "Systems"]
    assert list(_pages_of(systems)) == sorted(_pages_of(systems))


@pytest.mark.slow
@pytest.mark.parametrize(("page", "folder"), [("docs/how_it_works.md", "iwpo_fast"), ("CONTRIBUTING.md", "")])
def test_every_file_that_a_page_names_is_there(page: str, folder: str) -> None:
    named = re.findall(r"`([\w./]+/[\w./]*\.\w+|[\w]+\.py)`", (ROOT / page).read_text(encoding="utf-8"))
    assert named
    anywhere = {path.name for path in ROOT.rglob("*.py")}
    missing = [name for name in named if not (ROOT / folder / name).exists() and ("/" in name or name not in anywhere)]
    assert missing == []


def test_the_page_on_how_it_works_stays_one_page() -> None:
    assert len((ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_hosted_checks_are_those_of_ci_run_on_the_oldest_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    versions = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
    assert job["runs-on"].startswith("ubuntu")
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert versions == ["3.11"]
    assert f'requires-python = ">={versions[0]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_hooks_of_a_commit_need_no_network_and_run_what_lint_runs() -> None:
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert source["repo"] == "local"
    assert {hook["language"] for hook in source["hooks"]} == {"system"}
    assert [hook["entry"].split()[0] for hook in source["hooks"]] == ["ruff", "ruff", "mypy"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs make")
@pytest.mark.parametrize("index", ["", "some-index"])
def test_pip_says_what_it_does_and_takes_torch_from_the_index_that_is_named(index: str, tmp_path: Path) -> None:
    command = ["make", "--dry-run", f"VENV={tmp_path}", f"TORCH_INDEX={index}", "demo"]
    # A make that runs the tests would tell this one of its terminal.
    apart = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, cwd=ROOT, env=apart, capture_output=True, text=True, check=True)
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert not any("--quiet" in line for line in installs)
    assert all("--progress-bar off" in line for line in installs), "the output is no terminal here"
    assert [line.endswith("--index-url some-index") for line in installs] == [bool(index), False]


def test_the_change_log_is_one_table_newest_first() -> None:
    rows = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    dates = [row.split("|")[1].strip() for row in rows[2:]]
    assert all(row.count("|") == 5 for row in rows)
    assert dates == sorted(dates, reverse=True)
