"""The result file of a run, written anew after every shape so that a run that is cut short leaves what it has."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.linear_token_logps.shapes import TINY
from benchmarks.suite import Shape, Suite
from benchmarks.table import Plan, Record, summary
from benchmarks.targets import Target, head_targets

HEAD = "linear_token_logps"


@dataclass
class Results:
    """What has been measured so far.

    Attributes:
        path: of the JSON; a Markdown file is written beside it.
        environment: see `environment.describe`.
        memory_by_tokens: rows of `table.memory_by_tokens`.
        not_started: shapes for which no time was left.
    """

    path: Path
    plan: Plan
    environment: dict[str, Any]
    started: float
    records: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    memory_by_tokens: list[dict[str, Any]] = field(default_factory=list)
    not_started: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def add(self, suite: Suite, shape: Shape, records: list[Record]) -> None:
        self.records += [summary(record, records) for record in records]
        self.tables.append(report.shape_table(suite, records))
        if suite.name == HEAD and shape != TINY:
            self.targets += head_targets(records, self.plan.device.type)
        self.write()

    def write(self) -> None:
        result = {
            "schema": 1,
            "date": date.today().isoformat(),
            "seconds": round(self.seconds, 1),
            "most_rounds": self.plan.rounds,
            "environment": self.environment | {"load_after": os.getloadavg()},
            "shapes_not_started": self.not_started,
            "targets": [vars(target) | {"met": target.met} for target in self.targets],
            "memory_by_tokens": self.memory_by_tokens,
            "records": self.records,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(result, indent=1) + "\n")
        self.path.with_suffix(".md").write_text(self.markdown() + "\n")

    def markdown(self) -> str:
        return "\n\n".join([*self.tables, report.target_table(self.targets)] if self.targets else self.tables)
