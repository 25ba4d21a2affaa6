"""Markdown of the results, and what was to be reached."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from benchmarks.harness import OK, Record, ratio
from benchmarks.results import Target
from benchmarks.training.measure import PEERS, Measured
from benchmarks.training.profile import PARTS

FASTER, LESS_MEMORY = 1.5, 0.6


def case_table(measured: Measured, peak: float) -> str:
    """All contenders of a case.

    Args:
        peak: FLOP/s that utilisation is a share of.
    """
    case = measured.case
    method = "LoRA" if case.lora else "all weights"
    mean_tokens = sum(measured.tokens) / max(1, len(measured.tokens)) / case.pairs_per_step
    lines = [
        f"### {case.name}: {case.model.name}, {method}, {case.data} pairs",
        "",
        f"{case.pairs_per_step} pairs per step, {mean_tokens:.0f} tokens a pair, {measured.supervised_share:.0%} "
        f"of them supervised, vocabulary {case.model.vocab:,}, {str(case.compute_dtype).removeprefix('torch.')}.",
        "",
        "| trainer | pairs at once | padding | pairs/s | tokens/s | quartiles | model FLOP/s | of peak "
        "| extra MiB | beyond gradients and optimiser | error | note |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
        *(_row(measured, record, peak) for record in measured.records),
    ]
    return "\n".join(lines)


def _row(measured: Measured, record: Record, peak: float) -> str:
    start = f"| {record.label} | {record.facts['micro_pairs']} | {record.facts['padded_share']:.0%} |"
    note = record.message if record.status == OK else f"{record.status}: {record.message}"
    rate, pairs, flops = measured.rate(record), measured.pairs_rate(record), measured.flops_rate(record)
    if rate is None or pairs is None or flops is None:
        return f"{start} – | | | | | | | | {note} |"
    assert record.extra_mib is not None
    speed = f"{pairs['median']:.4g} | {rate['median']:.0f} | {rate['low']:.0f}–{rate['high']:.0f}"
    use = f"{flops['median']:.2e} | {flops['median'] / peak:.1%}"
    memory = f"{record.extra_mib:.0f} | {record.extra_mib - record.facts['state_mib']:.0f}"
    return f"{start} {speed} | {use} | {memory} | {record.errors[0]:.0e} | {note} |"


def targets_of(measured: Measured) -> list[Target]:
    """Ours over each peer, both at their fastest settings, then at equal ones."""
    targets: list[Target] = []
    for peer in PEERS:
        theirs, ours = measured.fastest(peer), measured.fastest("ours")
        if theirs is None or ours is None:
            continue
        targets += _compare(measured, ours, theirs, "each at its fastest")
        timed = [record for record in measured.records if record.times]
        for mine, other in product(timed, timed):
            if mine.library == "ours" and other.library == peer and mine.mode == other.mode:
                targets += _compare(measured, mine, other, mine.mode)
    return targets


def _compare(measured: Measured, ours: Record, theirs: Record, settings: str) -> list[Target]:
    faster = ratio(theirs, ours)
    assert faster is not None and ours.extra_mib and theirs.extra_mib
    name, spread = measured.case.name, f"{faster['low']:.2f}–{faster['high']:.2f}"
    return [
        Target(name, f"speed over {theirs.label}'s, {settings} ({spread})", FASTER, faster["median"], at_least=True),
        Target(name, f"extra memory over {theirs.label}'s, {settings}", LESS_MEMORY, ours.extra_mib / theirs.extra_mib),
    ]


def profile_table(measured: Measured) -> str | None:
    """Milliseconds of one step by part, each contender at its fastest setting."""
    records = [record for record in measured.records if record.facts["profile"] is not None]
    if not records:
        return None
    names = [f"{record.label}, {record.facts['micro_pairs']} at once" for record in records]
    lines = ["| part of a step, ms | " + " | ".join(names) + " |", "|---|" + "--:|" * len(records)]
    profiles = [record.facts["profile"] for record in records]
    for part in PARTS:
        cells = (f"{1e3 * p['parts'][part]:.1f} ({p['parts'][part] / p['seconds']:.0%})" for p in profiles)
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    lines.append("| all, profiled | " + " | ".join(f"{1e3 * p['seconds']:.1f}" for p in profiles) + " |")
    return "\n".join(lines)


def growth_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| grows | size | trainer | tokens/s | quartiles | extra MiB | note |", "|---|--:|---|--:|--:|--:|---|"]
    for row in rows:
        rate, memory = row["tokens_per_s"], row["extra_mib"]
        speed = " | " if rate is None else f"{rate['median']:.0f} | {rate['low']:.0f}–{rate['high']:.0f}"
        note = "" if row["status"] == "ok" else f"{row['status']}: {row['message']}"
        shown = "" if memory is None else f"{memory:.0f}"
        lines.append(f"| {row['sweep']} | {row['size']} | {row['label']} | {speed} | {shown} | {note} |")
    return "\n".join(lines)
