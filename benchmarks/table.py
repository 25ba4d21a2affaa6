"""Runs the variants of a suite at a shape: right first, then memory, then time."""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import copies_past_cache, extra_mib, interleaved
from benchmarks.suite import TOLERANCE, Run, Shape, Suite, Variant, relative_errors

RIGHT, WRONG, ABSENT, NO_MEMORY, FAILED = "ok", "wrong", "not available", "out of memory", "failed"


@dataclass
class Record:
    """What became of one variant at one shape.

    Attributes:
        status: "ok", "wrong" (and therefore not timed), "not available", "out of memory" or "failed".
        message: why, where it is not "ok".
        errors: relative errors of loss or log-probs, gradient of the inputs, gradient of the head.
        extra_mib: peak memory beyond the inputs; None where it was not measured.
        times_ms: one sample per round; sample i of every variant of a shape is from the same round.
    """

    suite: str
    shape: dict[str, Any]
    label: str
    library: str
    mode: str
    floor: str
    note: str
    status: str = RIGHT
    message: str = ""
    errors: list[float] = field(default_factory=list)
    extra_mib: float | None = None
    times_ms: list[float] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.label} [{self.mode}]"


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        libraries: the peers to run beside ours, PyTorch and the floors.
        rounds: samples per variant.
        threads: of PyTorch on a CPU.
        labels: of the variants to run beside the floors; all of them where it is None. A key, which is a label with its
            mode in brackets, chooses one mode.
        measures_memory: whether to measure peaks.
        deadline: by `time.monotonic`; no shape, and no round after the third, is started after it.
    """

    device: torch.device
    libraries: Collection[str]
    rounds: int
    threads: int
    labels: Collection[str] | None = None
    measures_memory: bool = True
    deadline: float = math.inf

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    def variants(self, suite: Suite) -> list[Variant]:
        known = [v for v in suite.variants if v.library in (*self.libraries, "ours", "torch", "floor")]
        if self.labels is None:
            return known
        chosen = [v for v in known if {v.label, v.key} & set(self.labels)]
        modes = {v.mode for v in chosen}
        return [v for v in known if v in chosen or (v.is_floor and v.mode in modes)]


def measure_shape(suite: Suite, shape: Shape, plan: Plan) -> list[Record]:
    """Records of all variants, in the suite's order."""
    _forget_compilations()
    records = {v.key: _record(suite, shape, v) for v in plan.variants(suite)}
    runs: dict[str, list[Run]] = {}
    _say(f"{suite.name}, {shape.name}: checking {len(records)} variants")
    with _guard(records.values()):
        problem = suite.build(shape, plan.device, 0)
        copies = copies_past_cache(suite.size_of(shape), plan.device)
        problems = [problem, *(suite.build(shape, plan.device, seed) for seed in range(1, copies))]
        references: dict[Any, tuple[Tensor, ...]] = {}
        for key, record in records.items():
            with _guard([record]):
                _verify(suite, suite.variant(key), problem, record, references)
            if record.status == RIGHT:
                with _guard([record]):
                    runs[key] = [suite.variant(key).prepare(p) for p in problems]
            _release()
        del references
    if plan.measures_memory:
        _say("measuring memory")
        for record in _right(records.values()):
            with _guard([record]):
                record.extra_mib = extra_mib(suite.name, record.key, shape, plan.device, plan.threads)
            _release()
    runs = {record.key: runs[record.key] for record in _right(records.values())}
    _say("timing")
    with _guard(_right(records.values())):
        for key, samples in interleaved(runs, plan.rounds, plan.device, deadline=plan.deadline).items():
            records[key].times_ms = samples
    return list(records.values())


def memory_by_tokens(
    suite: Suite, records: Iterable[Record], sequences: Iterable[int], labels: Collection[str], plan: Plan
) -> list[dict[str, Any]]:
    """Peak memory beyond the inputs at other numbers of sequences, for the variants of these labels.

    Args:
        records: of `measure_shape`; they give the shape, and its own point.
    """
    rows: list[dict[str, Any]] = []
    for measured in records:
        if measured.label not in labels or measured.status != RIGHT:
            continue
        rows.append(_memory_row(measured))
        for count in sequences:
            record = replace(measured, shape=measured.shape | {"sequences": count}, extra_mib=None)
            with _guard([record]):
                shape = Shape.from_dict(record.shape)
                record.extra_mib = extra_mib(suite.name, record.key, shape, plan.device, plan.threads)
            _release()
            rows.append(_memory_row(record))
    return rows


def _memory_row(record: Record) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in ("label", "library", "mode", "extra_mib", "status", "message")}
    tokens = record.shape["sequences"] * record.shape["tokens"]
    return {"shape": record.shape["name"], "tokens": tokens} | fields


def summary(record: Record, records: Iterable[Record]) -> dict[str, Any]:
    """JSON-ready: the record, its median and quartiles, and its ratios to floor and baseline round by round."""
    peers = {peer.key: peer for peer in records}
    floor = peers.get(f"{record.floor} [{record.mode}]")
    return asdict(record) | {
        "time_ms": quartiles(record.times_ms),
        "over_floor": ratio(record, floor),
    }


def ratio(record: Record | None, other: Record | None) -> dict[str, float] | None:
    """Median and quartiles of time over time, round by round, or None where one was not timed."""
    if record is None or other is None or not record.times_ms or not other.times_ms:
        return None
    return quartiles([a / b for a, b in zip(record.times_ms, other.times_ms, strict=True)])


def quartiles(samples: list[float]) -> dict[str, float] | None:
    if not samples:
        return None
    low, _, high = statistics.quantiles(samples, method="inclusive") if len(samples) > 1 else samples * 3
    return {"median": statistics.median(samples), "low": low, "high": high}


def _record(suite: Suite, shape: Shape, variant: Variant) -> Record:
    return Record(
        suite.name, shape.as_dict(), variant.label, variant.library, variant.mode, variant.floor, variant.note
    )


def _right(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.status == RIGHT]


def _verify(
    suite: Suite, variant: Variant, problem: Any, record: Record, references: dict[Any, tuple[Tensor, ...]]
) -> None:
    """Runs once, which also warms up; a result that differs from the reference is wrong."""
    results = variant.prepare(problem)()
    if variant.is_floor:
        return
    if variant.task not in references:
        references[variant.task] = suite.reference(problem, variant)
    record.errors = relative_errors(results, references[variant.task])
    allowed = TOLERANCE[getattr(torch, record.shape["dtype"])]
    if max(record.errors) > allowed:
        record.status = WRONG
        record.message = f"relative errors {record.errors}, allowed is {allowed}"


class _guard:
    """Turns an exception into the status of the records that it concerns; their benchmark goes on without them."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = records

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if not isinstance(error, Exception):
            return False
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        status = ABSENT if isinstance(error, ImportError) else NO_MEMORY if out_of_memory else FAILED
        for record in self.records:
            record.status, record.message = status, f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
        return True


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _forget_compilations() -> None:
    """Peers that compile do so afresh for each shape, as in a process of its own; torch keeps only a few else."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()
