"""What the page needs of the numbers that parts leave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.table import quartiles

Results = dict[str, Any]
Record = dict[str, Any]

HEAD_PARTS = ("head", "liger")
HEAD_SUITE, OURS = "linear_token_logps", "ours"


def files(results: Results, *parts: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of these parts, in order; the table of tuned settings is a list."""
    for part in parts:
        yield from (file for file in results["numbers"].get(part, {}).values() if isinstance(file, dict))


def records(results: Results, *parts: str) -> list[Record]:
    """Measured variants of the benchmarks that these parts ran."""
    return [record for file in files(results, *parts) for record in file.get("records", [])]


def head_records(results: Results, *parts: str) -> list[Record]:
    return [record for record in records(results, *parts) if record["suite"] == HEAD_SUITE]


def targets(results: Results, *parts: str) -> list[dict[str, Any]]:
    """Each once, though several of these parts may have measured it."""
    found = [target for file in files(results, *parts) for target in file.get("targets", [])]
    return list({(target["shape"], target["what"]): target for target in reversed(found)}.values())[::-1]


def place(record: Record) -> tuple[str, str]:
    """Where a variant stands: shape and mode."""
    return record["shape"]["name"], record["mode"]


def times_ours(record: Record, others: list[Record]) -> float | None:
    """Median of a variant's time over ours, round by round, in the run that timed both."""
    for ours in others:
        same = place(ours) == place(record) and len(ours["times_ms"]) == len(record["times_ms"])
        if same and ours["label"] == OURS and ours["times_ms"]:
            ratio = quartiles([a / b for a, b in zip(record["times_ms"], ours["times_ms"], strict=True)])
            return ratio["median"] if ratio else None
    return None


def probe(results: Results) -> dict[str, Any]:
    return next(files(results, "probe"), {})
