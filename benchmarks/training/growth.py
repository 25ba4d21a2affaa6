"""How speed and memory grow with sequence length, vocabulary and pairs per step, which are all of one micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from benchmarks.harness import Plan
from benchmarks.training.case import Case, ModelShape
from benchmarks.training.measure import Measured, measure, steps_needed
from benchmarks.training.pairs import equal_pairs
from benchmarks.training.shapes import QWEN_HALF, SMOKE

ROUNDS = 3
# A model, the sizes of a point, and what each of these becomes while the others stay.
Sweeps = tuple[ModelShape, Mapping[str, int], Mapping[str, tuple[int, ...]]]
CPU: Sweeps = (
    ModelShape("two layers of 128", "llama", 8192, 128, 384, 2, 4, 4, tied=True),
    {"length": 256, "vocabulary": 8192, "pairs": 4},
    {
        "length": (64, 128, 256, 512, 1024, 2048),
        "vocabulary": (2048, 8192, 32768, 65536),
        "pairs": (1, 2, 4, 8, 16),
    },
)
GPU: Sweeps = (
    QWEN_HALF,
    {"length": 512, "vocabulary": 151936, "pairs": 8},
    {
        "length": (256, 512, 1024, 2048, 4096),
        "vocabulary": (32768, 65536, 151936, 262144),
        "pairs": (2, 4, 8, 16, 32),
    },
)
QUICK: Sweeps = (
    SMOKE,
    {"length": 32, "vocabulary": 512, "pairs": 2},
    {"length": (16, 32), "vocabulary": (256, 512), "pairs": (1, 2)},
)


def sweeps_of(device: str, quick: bool) -> Sweeps:
    return QUICK if quick else CPU if device == "cpu" else GPU


def grow(sweeps: Sweeps, plan: Plan) -> Iterator[dict[str, Any]]:
    """Rows of sweep, size, contender, tokens/s and extra MiB. No point is measured twice.

    A point for which the plan left no time is a row that says so.
    """
    plan = replace(plan, rounds=min(plan.rounds, ROUNDS), profiles=False)
    model, base, sizes_of = sweeps
    known: dict[tuple[int, ...], Measured] = {}
    for sweep, size in ((sweep, size) for sweep, sizes in sizes_of.items() for size in sizes):
        point = {**base, sweep: size}
        row = {"sweep": sweep, "size": size, "contender": None, "label": "all", "tokens_per_s": None, "extra_mib": None}
        key = tuple(point.values())
        if key not in known:
            if plan.is_over:
                yield row | {"status": "not started", "message": "no time left"}
                continue
            known[key] = _measure(model, point, plan)
        for record in known[key].records:
            measured = {"contender": record.library, "label": record.label, "tokens_per_s": known[key].rate(record)}
            yield row | measured | {n: getattr(record, n) for n in ("extra_mib", "status", "message")}


def _measure(model: ModelShape, point: Mapping[str, int], plan: Plan) -> Measured:
    length, vocabulary, pairs = point["length"], point["vocabulary"], point["pairs"]
    case = Case(
        name=f"length {length}, vocabulary {vocabulary}, {pairs} pairs",
        model=replace(model, vocab=vocabulary),
        data="equal lengths",
        pairs_per_step=pairs,
        micro_pairs=(pairs,),
        lora=False,
        device=plan.device.type,
        threads=plan.threads,
    )
    return measure(case, equal_pairs(steps_needed(plan) * pairs, vocab=vocabulary, length=length), plan)
