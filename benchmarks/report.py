"""Markdown of the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.suite import Suite
from benchmarks.table import Record, quartiles, ratio
from benchmarks.targets import Target


def shape_table(suite: Suite, records: Sequence[Record]) -> str:
    """Variants of one shape, mode by mode: times with quartiles, and ratios taken round by round."""
    shape = records[0].shape
    title = f"### {suite.name}, {shape['name']}: {_sizes(shape)}"
    head = f"| mode | variant | ms | quartiles | over floor | over {suite.baseline} | extra MiB | error | note |"
    lines = [title, "", head, "|---|---|--:|--:|--:|--:|--:|--:|---|"]
    by_key = {record.key: record for record in records}
    for mode in suite.modes:
        for record in records:
            if record.mode == mode:
                floor = by_key.get(f"{record.floor} [{mode}]")
                baseline = by_key.get(f"{suite.baseline} [{mode}]")
                lines.append(_row(record, floor, baseline))
    return "\n".join(lines)


def target_table(targets: Sequence[Target]) -> str:
    lines = ["| shape | target | limit | measured | met |", "|---|---|--:|--:|---|"]
    for target in targets:
        relation = "≥" if target.at_least else "≤"
        digits = 0 if "MiB" in target.unit else 2
        limit, measured = (f"{value:.{digits}f}{target.unit}" for value in (target.limit, target.measured))
        met = "yes" if target.met else "**no**"
        lines.append(f"| {target.shape} | {target.what} | {relation} {limit} | {measured} | {met} |")
    return "\n".join(lines)


def _sizes(shape: dict[str, Any]) -> str:
    softcap = f", softcap {shape['softcap']}" if shape["softcap"] else ""
    return (
        f"{shape['sequences']} × {shape['tokens']} tokens, {shape['supervised']:.0%} supervised, "
        f"H={shape['hidden']}, V={shape['vocab']}, {shape['dtype']}{softcap}"
    )


def _row(record: Record, floor: Record | None, baseline: Record | None) -> str:
    time = quartiles(record.times_ms)
    if time is None:
        return f"| {record.mode} | {record.label} | – | | | | | | {record.status}: {record.message} |"
    spread = f"{time['low']:.4g}–{time['high']:.4g}"
    memory = "" if record.extra_mib is None else f"{record.extra_mib:.0f}"
    error = f"{max(record.errors):.0e}" if record.errors else ""
    ratios = " | ".join(_ratio(ratio(record, other)) for other in (floor, baseline))
    numbers = f"{time['median']:.4g} | {spread} | {ratios} | {memory} | {error}"
    return f"| {record.mode} | {record.label} | {numbers} | {record.note} |"


def _ratio(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.2f} ({value['low']:.2f}–{value['high']:.2f})"
