"""What the operators are meant to reach, and a table of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.harness import Record, quartiles, ratio
from benchmarks.linear_token_logps.problem import FROZEN, NO_GRADIENT, TRAINABLE
from benchmarks.operators import floor_of
from benchmarks.results import Target
from benchmarks.suite import Shape, Suite

NAIVE, RECOMPUTED = "naive, all tokens", "ours, recomputed"
TRL, LIGER = "TRL chunked", "Liger fused DPO"
MIB = 1 << 20
EXTRA_MIB = 512.0  # beyond the gradient of the head
FASTER_THAN_PEERS = 3.0  # where half of the tokens are prompts
Records = Mapping[str, Record]  # of one shape, by key


def over_products(hidden: int) -> float:
    """Times the bare products: 1.13 at H = 4096, 1.35 at 1536. What is not product is traffic, which H divides."""
    return round(1 + 535 / hidden, 2)


def head_targets(shape: Shape, records: Records, device_type: str) -> list[Target]:
    """Of one shape of `linear_token_logps`; a target is left out where one of its two sides was not measured."""
    return list((_on_cpu if device_type == "cpu" else _on_gpu)(shape, records))


def _on_cpu(shape: Shape, records: Records) -> Iterator[Target]:
    for mode, time, memory in ((FROZEN, 0.40, 0.10), (TRAINABLE, 0.60, 0.30)):
        ours, naive, trl = (records.get(f"{label} [{mode}]") for label in ("ours", NAIVE, TRL))
        yield from _time(shape, f"{mode}: time over naive's", time, ours, naive)
        if ours and naive and ours.extra_mib and naive.extra_mib:
            share = ours.extra_mib / naive.extra_mib
            yield Target(shape.name, f"{mode}: extra memory over naive's", memory, share)
        yield from _time(shape, f"{mode}: time over that of {TRL}", 0.50, ours, trl)


def _on_gpu(shape: Shape, records: Records) -> Iterator[Target]:
    if shape.supervised == 1.0:
        limit = over_products(shape.hidden)
        for mode, label in ((NO_GRADIENT, "ours"), (FROZEN, "ours"), (TRAINABLE, "ours"), (TRAINABLE, RECOMPUTED)):
            ours = records.get(f"{label} [{mode}]")
            what = f"{mode}: time of {label} over the bare products'"
            yield from _time(shape, what, limit, ours, floor_of(ours, records) if ours else None)
    head_mib = shape.vocab * shape.hidden * 2 / MIB
    for mode, label, limit in ((FROZEN, "ours", EXTRA_MIB), (TRAINABLE, RECOMPUTED, EXTRA_MIB + head_mib)):
        ours = records.get(f"{label} [{mode}]")
        if ours is not None and ours.extra_mib is not None:
            yield Target(shape.name, f"{mode}: extra memory of {label}", limit, ours.extra_mib, unit=" MiB")
    if shape.supervised == 0.5:
        for mode in (FROZEN, TRAINABLE):
            for label in (TRL, LIGER):
                speedup = ratio(records.get(f"{label} [{mode}]"), records.get(f"ours [{mode}]"))
                if speedup is not None:
                    what = f"{mode}: times faster than {label}"
                    yield Target(shape.name, what, FASTER_THAN_PEERS, speedup["median"], at_least=True)


def _time(shape: Shape, what: str, limit: float, ours: Record | None, other: Record | None) -> Iterator[Target]:
    measured = ratio(ours, other)
    if measured is not None:
        yield Target(shape.name, what, limit, measured["median"])


def shape_table(suite: Suite, shape: Shape, records: Records) -> str:
    """Markdown: variants of one shape, mode by mode, with times, quartiles, and ratios taken round by round."""
    head = f"| mode | variant | ms | quartiles | over floor | over {suite.baseline} | extra MiB | error | note |"
    lines = [f"### {suite.name}, {shape.name}: {_sizes(shape)}", "", head, "|---|---|--:|--:|--:|--:|--:|--:|---|"]
    modes = list(dict.fromkeys(variant.mode for variant in suite.variants))
    for record in sorted(records.values(), key=lambda record: modes.index(record.mode)):
        others = (floor_of(record, records), records.get(f"{suite.baseline} [{record.mode}]"))
        lines.append(f"| {record.mode} | {record.label} | {_cells(record, others)} |")
    return "\n".join(lines)


def _sizes(shape: Shape) -> str:
    softcap = f", softcap {shape.softcap}" if shape.softcap else ""
    return (
        f"{shape.sequences} × {shape.tokens} tokens, {shape.supervised:.0%} supervised, "
        f"H={shape.hidden}, V={shape.vocab}, {shape.as_dict()['dtype']}{softcap}"
    )


def _cells(record: Record, others: tuple[Record | None, Record | None]) -> str:
    time = quartiles(record.times)
    if time is None:
        return f"– | | | | | | {record.status}: {record.message}"
    ratios = [ratio(record, other) for other in others]
    cells = [
        f"{time['median']:.4g}",
        f"{time['low']:.4g}–{time['high']:.4g}",
        *("" if r is None else f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})" for r in ratios),
        "" if record.extra_mib is None else f"{record.extra_mib:.0f}",
        f"{max(record.errors):.0e}" if record.errors else "",
        record.facts["note"],
    ]
    return " | ".join(cells)
