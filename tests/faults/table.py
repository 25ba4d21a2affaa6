"""The results of the suite: a JSON file that further runs add to, and a table of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verdicts import FAULTS, Verdict

HEAD = """# Faults

What `make faults` came to. A case is drawn from the seed, its kind and its number; a verdict is one of

- **same bytes**: every file of the output is that of a command that nobody disturbed; of a fuzz, the example was read
  or computed as it is documented;
- **unread**: the damaged file is one that a finished run does not read again, and every other file is the same;
- **sentence**: one sentence, exit code 2 (143 where a signal asked), and where it can go on with the same command, as
  after a full disk or a killed rank, that then comes to the same bytes;
- a fault: **traceback**, **crash** (a signal that nobody sent, or an exit without a sentence), **hang**, **different**.

"""


def write(path: Path, environment: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Write the kinds into the JSON at `path`, which keeps others that it has, and a Markdown file beside it."""
    known = json.loads(path.read_text())["kinds"] if path.exists() else {}
    content = {"schema": 1, "environment": dict(environment), "kinds": known | dict(kinds)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(content))


def markdown(content: Mapping[str, Any]) -> str:
    verdicts = [str(verdict) for verdict in Verdict]
    lines = [
        f"| kind | how | seed | cases | {' | '.join(verdicts)} |",
        f"|---|---|--:|--:|{'--:|' * len(verdicts)}",
    ]
    for name, kind in content["kinds"].items():
        counts = " | ".join(str(kind["verdicts"].get(verdict, 0)) for verdict in verdicts)
        lines.append(f"| {name} | {kind['how']} | {kind['seed']} | {kind['cases']} | {counts} |")
    about = content["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    facts = f"{about['device']['name']}, {about['device']['cores']} cores. {versions}. Commit {about['commit']}."
    return f"{HEAD}{chr(10).join(lines)}\n\n{facts}\n{_faults(content['kinds'])}"


def _faults(kinds: Mapping[str, Any]) -> str:
    found = [
        f"- {name} {fault['number']}: {fault['verdict']}: {fault['what']}"
        for name, kind in kinds.items()
        for fault in kind["faults"]
    ]
    return "\n".join(["", "Faults:", "", *found, ""]) if found else ""


def counted(verdicts: Mapping[str, int]) -> dict[str, int]:
    """How often each verdict was given, in their order, those that never were left out."""
    return {str(verdict): verdicts[verdict] for verdict in Verdict if verdicts.get(verdict)}


def number_of_faults(kinds: Mapping[str, Any]) -> int:
    return sum(count for kind in kinds.values() for verdict, count in kind["verdicts"].items() if verdict in FAULTS)
