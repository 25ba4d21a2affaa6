"""Sweeps the settings of `linear_token_logps` at one shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from statistics import median
from typing import Any
from unittest.mock import patch

from torch import Tensor

from benchmarks.linear_token_logps.problem import FROZEN, TRAINABLE, HeadProblem
from benchmarks.linear_token_logps.variants import ours
from benchmarks.measure import interleaved
from benchmarks.suite import Run, Suite, Variant
from benchmarks.table import Plan

OPERATOR = "iwpo_kernels.linear_token_logps"
WORKSPACE = "workspace_mb"
# Values of each setting, in the order in which they are tuned; the others stay at the best found so far.
SETTINGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "cpu": {"tiling.CPU_TILE_BYTES": tuple(mib << 20 for mib in (4, 8, 16, 32, 64))},
    "cuda": {
        "tiling.ROWS_PER_TILE": (1024, 2048, 4096, 8192),
        WORKSPACE: (128, 256, 384, 512, 1024),
        "tiling.WIDEST_SLICE": (4096, 8192, 16384, 32768),
        "kernels.ROW_WARPS": (4, 8, 16),
        "kernels.SLICE_BLOCK": (1024, 2048, 4096),
        "kernels.RECOMPUTE_BLOCK": (1024, 2048, 4096, 8192),
    },
}
MODES = ((FROZEN, False), (TRAINABLE, True), (TRAINABLE, False))  # and whether the exponentials are saved


def sweep(suite: Suite, shape_name: str, plan: Plan) -> str:
    """Markdown: milliseconds of frozen, trainable and trainable with recomputation at each value; the best last."""
    kind = plan.device.type
    shape = next((shape for shape in suite.shapes(kind) if shape.name == shape_name), None)
    if shape is None:
        names = ", ".join(shape.name for shape in suite.shapes(kind))
        raise ValueError(f"There is no shape {shape_name!r} for {kind}: pass one of {names}.")
    problem = suite.build(shape, plan.device, 0)
    best: dict[str, Any] = {}
    lines = ["| setting | value | frozen ms | trainable ms | recomputed ms |", "|---|--:|--:|--:|--:|"]
    for setting, values in SETTINGS[kind].items():
        runs = {
            f"{value} {i}": [_run(problem, mode, save, best | {setting: value})]
            for value in values
            for i, (mode, save) in enumerate(MODES)
        }
        times = interleaved(runs, plan.rounds, plan.device)
        rows = {value: [median(times[f"{value} {i}"]) for i in range(len(MODES))] for value in values}
        best[setting] = min(rows, key=lambda value: sum(rows[value]))
        for value, row in rows.items():
            mark = " (best)" if value == best[setting] else ""
            lines.append(f"| {setting} | {value}{mark} | " + " | ".join(f"{ms:.2f}" for ms in row) + " |")
    return "\n".join([*lines, "", f"Best at {shape.name}: {best}"])


def _run(problem: HeadProblem, mode: str, save: bool, settings: dict[str, Any]) -> Run:
    options = {WORKSPACE: settings[WORKSPACE]} if WORKSPACE in settings else {}
    variant: Variant = ours(mode, save, "ours", **options)
    run = variant.prepare(problem)

    def patched() -> tuple[Tensor, ...]:
        with ExitStack() as stack:
            for patcher in patches(settings):
                stack.enter_context(patcher)
            return run()

    patched()  # compiles
    return patched


def patches(settings: dict[str, Any]) -> Iterator[Any]:
    """Of module constants, for as long as each is entered."""
    for name, value in settings.items():
        if name != WORKSPACE:
            module, constant = name.split(".")
            yield patch.object(import_module(f"{OPERATOR}.{module}"), constant, value)
