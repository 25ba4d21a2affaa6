"""How speed and memory grow with sequence length, vocabulary and pairs per step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.training.case import Case, ModelShape
from benchmarks.training.lengths import equal_pairs
from benchmarks.training.measure import LABELS, Measured, Plan, measure, steps_needed
from benchmarks.training.shapes import QWEN_HALF, SMOKE

ROUNDS = 3
SWEEPS = ("length", "vocabulary", "pairs")


@dataclass(frozen=True)
class Point:
    """Sizes of one measurement; all pairs of a step are one micro-batch."""

    length: int
    vocabulary: int
    pairs: int


@dataclass(frozen=True)
class Ranges:
    """A model, a point, and what each of its sizes becomes while the others stay."""

    model: ModelShape
    base: Point
    length: tuple[int, ...]
    vocabulary: tuple[int, ...]
    pairs: tuple[int, ...]

    def points(self) -> Iterator[tuple[str, Point]]:
        for sweep in SWEEPS:
            for size in getattr(self, sweep):
                yield sweep, replace(self.base, **{sweep: size})


CPU = Ranges(
    ModelShape("two layers of 128", "llama", 8192, 128, 384, 2, 4, 4, tied=True),
    Point(256, 8192, 4),
    length=(64, 128, 256, 512, 1024, 2048),
    vocabulary=(2048, 8192, 32768, 65536),
    pairs=(1, 2, 4, 8, 16),
)
GPU = Ranges(
    QWEN_HALF,
    Point(512, 151936, 8),
    length=(256, 512, 1024, 2048, 4096),
    vocabulary=(32768, 65536, 151936, 262144),
    pairs=(2, 4, 8, 16, 32),
)
QUICK = Ranges(SMOKE, Point(32, 512, 2), length=(16, 32), vocabulary=(256, 512), pairs=(1, 2))


def ranges_of(device: str, quick: bool) -> Ranges:
    return QUICK if quick else CPU if device == "cpu" else GPU


def grow(ranges: Ranges, plan: Plan, device: str, threads: int) -> Iterator[dict[str, Any]]:
    """Rows of sweep, size, contender, tokens/s and extra MiB. No point is measured twice.

    A point for which the plan left no time is a row that says so.
    """
    plan = replace(plan, rounds=min(plan.rounds, ROUNDS), profiles=False)
    known: dict[Point, Measured] = {}
    for sweep, point in ranges.points():
        if point not in known:
            if plan.is_over:
                yield _row(sweep, point, status="not started", message="no time left")
                continue
            known[point] = _measure(ranges.model, point, plan, device, threads)
        measured = known[point]
        for record in measured.records:
            yield _row(
                sweep,
                point,
                record.contender,
                tokens_per_s=measured.rate(record),
                extra_mib=record.extra_mib,
                status=record.status,
                message=record.message,
            )


def _measure(model: ModelShape, point: Point, plan: Plan, device: str, threads: int) -> Measured:
    shape = replace(model, vocab=point.vocabulary)
    name = f"length {point.length}, vocabulary {point.vocabulary}, {point.pairs} pairs"
    case = Case(name, shape, "equal lengths", point.pairs, (point.pairs,), lora=False, device=device, threads=threads)
    count = steps_needed(plan, device) * point.pairs
    return measure(case, equal_pairs(count, vocab=point.vocabulary, length=point.length), plan)


def _row(sweep: str, point: Point, contender: str | None = None, **found: Any) -> dict[str, Any]:
    label = LABELS[contender] if contender else "all"
    row = {"sweep": sweep, "size": getattr(point, sweep), "contender": contender, "label": label}
    return row | {"tokens_per_s": None, "extra_mib": None} | found
