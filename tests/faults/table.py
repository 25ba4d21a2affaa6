"""The results of the suite: a JSON file that further runs add to, and a table of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verdicts import FAULTS, Verdict

HEAD = """# Faults

What `make faults` came to. A case is drawn from the seed, its kind and its number; a verdict is one of

- **same bytes**: every file of the output is that of a command that nobody disturbed; of a fuzz, the example was read
  or computed as it is documented;
- **unread**: the damaged file is one that a finished run does not read again, a checkpoint that is not the newest, or
  margins of held-out pairs, which are computed anew where they are asked for; every other file is the same;
- **sentence**: one sentence, exit code 2 (143 where a signal asked), and where it can go on with the same command, as
  after a full disk or a killed rank, that then comes to the same bytes;
- a fault: **traceback**, **crash** (a signal that nobody sent, or an exit without a sentence), **hang**, **different**.
"""


Record = dict[str, Any]
"""Of one kind: `how`, `seed`, `seconds`, `outcomes` by number, and of a fuzz `held`, which counts verdicts."""


def add(path: Path, environment: Mapping[str, Any], kind: str, record: Record) -> None:
    """Add a record to the JSON at `path`, where a case of the same seed takes the place of an earlier one.

    A Markdown file is written beside it.
    """
    kinds = json.loads(path.read_text())["kinds"] if path.exists() else {}
    earlier = kinds.get(kind, {})
    if earlier.get("seed") == record["seed"] and "held" not in record:
        record = record | {
            "outcomes": earlier["outcomes"] | record["outcomes"],
            "seconds": earlier["seconds"] + record["seconds"],
        }
    content = {"schema": 1, "environment": dict(environment), "kinds": kinds | {kind: record}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(content))


def verdicts(record: Record) -> Counter[str]:
    return Counter(record.get("held", {})) + Counter(one["verdict"] for one in record["outcomes"].values())


def number_of_faults(record: Record) -> int:
    return sum(count for verdict, count in verdicts(record).items() if verdict in FAULTS)


def markdown(content: Mapping[str, Any]) -> str:
    names = [str(verdict) for verdict in Verdict]
    lines = [
        f"| kind | how | seed | cases | {' | '.join(names)} | seconds |",
        f"|---|---|--:|--:|{'--:|' * len(names)}--:|",
    ]
    for kind, record in content["kinds"].items():
        found = verdicts(record)
        cells = [kind, record["how"], record["seed"], found.total(), *(found[name] for name in names)]
        lines.append(f"| {' | '.join(map(str, cells))} | {record['seconds']:.0f} |")
    about = content["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    facts = f"{about['device']['name']}, {about['device']['cores']} cores. {versions}. Commit {about['commit']}."
    notes = [part for note in content.get("notes", []) for part in ("", note)]
    return "\n".join([HEAD, *lines, "", facts, *notes, *_faults(content["kinds"]), ""])


def _faults(kinds: Mapping[str, Record]) -> list[str]:
    found = [
        f"- {kind} {number}: {one['verdict']}: {one['what']}"
        for kind, record in kinds.items()
        for number, one in record["outcomes"].items()
        if one["verdict"] in FAULTS
    ]
    return ["", "Faults:", "", *found] if found else []
