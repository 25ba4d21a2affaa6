"""What the page needs of the numbers that parts leave."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.results import Target

Results = dict[str, Any]
Record = dict[str, Any]

HEAD_PARTS = ("head", "liger")
HEAD_SUITE, OURS = "linear_token_logps", "ours"
WITH_TARGETS = {"": HEAD_PARTS, "Tuned": ("tuned",), "Training": ("training",)}


def files(results: Results, *parts: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of these parts, in order; the table of tuned settings is a list."""
    for part in parts:
        yield from (file for file in results["numbers"].get(part, {}).values() if isinstance(file, dict))


def records(results: Results, *parts: str) -> list[Record]:
    """Measured variants of the benchmarks that these parts ran."""
    return [record for file in files(results, *parts) for record in file.get("records", [])]


def head_records(results: Results, *parts: str) -> list[Record]:
    return [record for record in records(results, *parts) if record["suite"] == HEAD_SUITE]


def targets(results: Results) -> dict[str, list[Target]]:
    """By kind, each once, though several parts may have measured it."""
    found: dict[str, list[Target]] = {}
    for kind, parts in WITH_TARGETS.items():
        rows = [row for file in files(results, *parts) for row in file.get("targets", [])]
        first = {(row["shape"], row["what"]): row for row in reversed(rows)}.values()
        found[kind] = [Target(**{name: row[name] for name in row if name != "met"}) for row in first][::-1]
    return found


def place(record: Record) -> tuple[str, str]:
    """Where a variant stands: shape and mode."""
    return record["shape"]["name"], record["mode"]


def times_ours(record: Record, others: list[Record]) -> float | None:
    """Median of a variant's time over ours, round by round, in the run that timed both."""
    for ours in others:
        same = place(ours) == place(record) and len(ours["times_ms"]) == len(record["times_ms"])
        if same and ours["label"] == OURS and ours["times_ms"]:
            return median([a / b for a, b in zip(record["times_ms"], ours["times_ms"], strict=True)])
    return None


def probe(results: Results) -> dict[str, Any]:
    return next(files(results, "probe"), {})


def training_records(results: Results) -> list[Record]:
    cases = [case for file in files(results, "training") for case in file.get("cases", [])]
    return [record for case in cases for record in case["records"]]


def kmeans_rows(results: Results) -> list[Record]:
    return [row for file in files(results, "kmeans") for row in file.get("backends", [])]
