"""Command line and files of a run, and what it was meant to reach."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import ROOT, describe, slug


@dataclass(frozen=True)
class Target:
    """A number to reach: `measured` has to be at most `limit`, or at least where `at_least`."""

    shape: str
    what: str
    limit: float
    measured: float
    at_least: bool = False
    unit: str = "×"

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def shown(self, number: float) -> str:
        """The limit, or what was measured, with its unit."""
        return f"{number:.{0 if 'MiB' in self.unit else 2}f}{self.unit}"


def target_table(targets: Sequence[Target]) -> str:
    lines = ["| shape | target | limit | measured | met |", "|---|---|--:|--:|---|"]
    for target in targets:
        limit = f"{'≥' if target.at_least else '≤'} {target.shown(target.limit)}"
        met = "yes" if target.met else "**no**"
        lines.append(f"| {target.shape} | {target.what} | {limit} | {target.shown(target.measured)} | {met} |")
    return "\n".join(lines)


class Results:
    """What has been measured so far, written anew after every shape or case, so that a run cut short leaves it.

    Args:
        path: of the JSON; a Markdown file is written beside it.
        environment: see `environment.describe`.
        content: further fields of the JSON, which the run fills.
    """

    def __init__(self, path: Path, environment: dict[str, Any], content: dict[str, Any]) -> None:
        self.path, self.environment, self.content = path, environment, content
        self.targets: list[Target] = []
        self.tables: list[str] = []
        self.after: list[str] = []  # what stands below the targets
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def write(self) -> None:
        result = {
            "schema": 1,
            "date": date.today().isoformat(),
            "seconds": round(self.seconds, 1),
            "environment": self.environment | {"load_after": os.getloadavg()},
            "targets": [vars(target) | {"met": target.met} for target in self.targets],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(result | self.content, indent=1) + "\n")
        self.path.with_suffix(".md").write_text(self.markdown() + "\n")

    def markdown(self) -> str:
        targets = [target_table(self.targets)] if self.targets else []
        return "\n\n".join([*self.tables, *targets, *self.after])


def common_options(
    description: str, device: str, peers: Sequence[str], usual: Sequence[str]
) -> argparse.ArgumentParser:
    """A parser of what all runs are told; `usual` are the peers that are measured where none are named."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=device)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and two rounds, to see that it works")
    parser.add_argument("--peers", nargs="*", choices=peers, default=list(usual))
    parser.add_argument("--rounds", type=int, help="samples of each contender")
    parser.add_argument(
        "--seconds", type=float, help="after that nothing is started but a shape's or case's first rounds"
    )
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch, on a CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--commit", help="where there is no git; so does $IWPO_COMMIT")
    return parser


def results_of(options: argparse.Namespace, prefix: str, content: dict[str, Any]) -> Results:
    """Empty results for a run on the device of the options."""
    facts = describe(torch.device(options.device), options.commit)
    path = options.out / f"{prefix}{slug(facts)}-{date.today().isoformat()}.json"
    return Results(path, facts, content)
