"""Runs the variants of a suite at a shape: right first, then memory, then time."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import WRONG, Plan, Record, guard, in_turn, quartiles, ratio, right, say, synchronise
from benchmarks.memory import MIB, extra_mib
from benchmarks.processes import preload, release_memory
from benchmarks.suite import TOLERANCE, Run, Shape, Suite, Variant, relative_errors

SAMPLE_SECONDS = 5e-3  # a sample repeats a short call until it takes this long
FEWEST_ROUNDS = 3
HEAD_START = 20_000_000  # cycles, about 11 ms, by which the host is ahead of a GPU, as between the steps of training
MOST_COPIES = 64  # of inputs so small that launches, not memory, take the time
ALWAYS = ("ours", "torch", "floor")
SLOW_IMPORTS = {  # custom operators need Dynamo
    "ours": ("iwpo_kernels", "torch._dynamo"),
    "trl": ("trl.kernels", "trl.trainer.utils"),
    "liger": ("liger_kernel.chunked_loss",),
}


def chosen(suite: Suite, plan: Plan) -> list[Variant]:
    """The variants that take part, with the floors of their modes."""
    known = [v for v in suite.variants if v.library in plan.libraries]
    if plan.labels is None:
        return known
    wanted = [v for v in known if {v.label, v.key} & set(plan.labels)]
    modes = {v.mode for v in wanted}
    return [v for v in known if v in wanted or (v.is_floor and v.mode in modes)]


def measure_shape(suite: Suite, shape: Shape, plan: Plan) -> list[Record]:
    """Records of all variants, in the suite's order."""
    _forget_compilations()
    records = {v.key: record_of(suite, shape, v) for v in chosen(suite, plan)}
    runs: dict[str, list[Run]] = {}
    say(f"{suite.name}, {shape.name}: checking {len(records)} variants")
    with guard(records.values()):
        copies = copies_past_cache(suite.size_of(shape), plan.device)
        problems = [suite.build(shape, plan.device, seed) for seed in range(copies)]
        references: dict[Any, tuple[Tensor, ...]] = {}
        for key, record in records.items():
            with guard([record]):
                _verify(suite, suite.variant(key), problems[0], record, references)
            if right([record]):
                with guard([record]):
                    runs[key] = [suite.variant(key).prepare(problem) for problem in problems]
            release_memory()
        del references
    if plan.measures_memory:
        say("measuring memory")
        for record in right(records.values()):
            _measure_memory(suite, shape, record, plan)
    runs = {record.key: runs[record.key] for record in right(records.values())}
    say("timing")
    with guard(right(records.values())):
        for key, samples in interleaved(runs, plan.rounds, plan.device, deadline=plan.deadline).items():
            records[key].times = samples
    return list(records.values())


def copies_past_cache(size: int, device: torch.device) -> int:
    """Sets of inputs of `size` bytes to rotate through, so that none is still in the cache at its next turn."""
    if device.type == "cuda":
        cached = torch.cuda.get_device_properties(device).L2_cache_size
    else:
        cached = os.sysconf("SC_LEVEL3_CACHE_SIZE") if "SC_LEVEL3_CACHE_SIZE" in os.sysconf_names else 32 * MIB
    return min(MOST_COPIES, max(1, math.ceil(2 * cached / size)))


def interleaved(
    runs: Mapping[str, Sequence[Run]], rounds: int, device: torch.device, seed: int = 0, deadline: float = math.inf
) -> dict[str, list[float]]:
    """Milliseconds per call, one sample per round.

    Args:
        runs: of each variant, warm, the same call on several sets of inputs, used in turn.
    """
    calls = dict.fromkeys(runs, 1)
    samples: dict[str, list[float]] = {key: [] for key in runs}
    for order in in_turn([*runs], rounds, FEWEST_ROUNDS, deadline, seed):
        for key in order:
            seconds = _seconds(runs[key], calls[key], device)
            if not samples[key] and seconds < SAMPLE_SECONDS:
                calls[key] = math.ceil(SAMPLE_SECONDS / seconds)
                seconds = _seconds(runs[key], calls[key], device)
            samples[key].append(1e3 * seconds)
    return samples


def _seconds(turns: Sequence[Run], calls: int, device: torch.device) -> float:
    """Mean time of one call: by events of a GPU, which begins late so as not to wait for the host, or by the clock."""
    synchronise(device)
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(HEAD_START)
        begin.record()
        for call in range(calls):
            turns[call % len(turns)]()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / calls
    begin_s = time.perf_counter()
    for call in range(calls):
        turns[call % len(turns)]()
    return (time.perf_counter() - begin_s) / calls


def memory_by_tokens(
    suite: Suite, records: Iterable[Record], sequences: Sequence[int], labels: Collection[str], plan: Plan
) -> list[dict[str, Any]]:
    """Peak memory beyond the inputs at other numbers of sequences, for the variants of these labels.

    Args:
        records: of `measure_shape`; they give the shape, and its own point.
    """
    rows: list[dict[str, Any]] = []
    for measured in right(records):
        if measured.label in labels:
            shape_measured = Shape.from_dict(measured.facts["shape"])
            rows.append(_memory_row(shape_measured, measured))
            for count in sequences:
                shape, record = replace(shape_measured, sequences=count), replace(measured, extra_mib=None)
                _measure_memory(suite, shape, record, plan)
                rows.append(_memory_row(shape, record))
    return rows


def _measure_memory(suite: Suite, shape: Shape, record: Record, plan: Plan) -> None:
    preload(plan.device.type, [name for library in plan.libraries for name in SLOW_IMPORTS.get(library, ())])
    with guard([record]):
        record.extra_mib = extra_mib(suite.name, record.key, shape, plan.device, plan.threads)
    release_memory()


def _memory_row(shape: Shape, record: Record) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in ("label", "library", "mode", "extra_mib", "status", "message")}
    return {"shape": shape.name, "tokens": shape.total_tokens} | fields


def floor_of(record: Record, by_key: Mapping[str, Record]) -> Record | None:
    return by_key.get(f"{record.facts['floor']} [{record.mode}]")


def summary(record: Record, by_key: Mapping[str, Record]) -> dict[str, Any]:
    """JSON-ready: the record, its median and quartiles, and its ratio to the floor, taken round by round."""
    fields = {name: value for name, value in vars(record).items() if name not in ("facts", "times")}
    times = {"times_ms": record.times, "time_ms": quartiles(record.times)}
    return record.facts | fields | times | {"over_floor": ratio(record, floor_of(record, by_key))}


def record_of(suite: Suite, shape: Shape, variant: Variant) -> Record:
    facts = {"suite": suite.name, "shape": shape.as_dict(), "floor": variant.floor, "note": variant.note}
    return Record(variant.label, variant.library, variant.mode, facts)


def _verify(
    suite: Suite, variant: Variant, problem: Any, record: Record, references: dict[Any, tuple[Tensor, ...]]
) -> None:
    """Run once, which also warms up; a result that differs from the reference is wrong."""
    results = variant.prepare(problem)()
    if variant.is_floor:
        return
    if variant.task not in references:
        references[variant.task] = suite.reference(problem, variant)
    record.errors = relative_errors(results, references[variant.task])
    allowed = TOLERANCE[getattr(torch, record.facts["shape"]["dtype"])]
    if max(record.errors) > allowed:
        record.status = WRONG
        record.message = f"relative errors {record.errors}, allowed is {allowed}"


def _forget_compilations() -> None:
    """Peers that compile do so afresh for each shape, as in a process of its own; torch keeps only a few otherwise."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()
