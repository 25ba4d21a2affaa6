"""Finds the settings of the operator that are fastest on this GPU, and writes the table that it reads.

    python -m benchmarks.linear_token_logps.tune --shapes qwen3-8b-half qwen2-1.5b --seconds 60 --out tuned.json
    IWPO_TILING_TABLE=tuned.json python -m benchmarks
    python -m benchmarks.linear_token_logps.tune --quick --device cpu --out tuned.json  # that it works, interpreted

Rows, width, workspace, warps and blocks of the row kernel, and where it exists the epilogue, are tried together, mode
by mode. An entry is written only where it is faster than what the operator takes by itself: its upper quartile below
the lower one of the default, and at least 1 % at the median, in rounds that took turns. It fits the default workspace;
what more memory would buy is printed. Entries of other devices, hidden sizes and modes stay as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.linear_token_logps.shapes import TINY, shapes
from benchmarks.suite import Shape

QUICK = replace(TINY, sequences=2, tokens=4, hidden=16, vocab=300)  # the interpreter takes a second for some 20 rows
QUICK_CANDIDATES = 3


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    device, chosen = torch.device(options.device), _shapes(options)
    deadline = time.monotonic() + options.seconds
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    from benchmarks.linear_token_logps.tuner import markdown, read, tune_shape, write
    from iwpo_kernels.devices import interpreted_kernels

    entries = read(options.out)
    with interpreted_kernels() if device.type == "cpu" else contextlib.nullcontext():
        for i, shape in enumerate(chosen):
            share = time.monotonic() + (deadline - time.monotonic()) / (len(chosen) - i)
            results = tune_shape(shape, device, entries, share, QUICK_CANDIDATES if options.quick else None)
            print("\n".join(markdown(shape, results)), end="\n\n", flush=True)
            write(options.out, entries)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Finds the fastest settings of linear_token_logps on this GPU.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="+", default=["qwen3-8b-half", "qwen2-1.5b-half"])
    parser.add_argument("--seconds", type=float, default=120, help="all shapes together, beside compilation under way")
    parser.add_argument("--quick", action="store_true", help="a tiny shape and few candidates, to see that it works")
    parser.add_argument("--out", type=Path, required=True, help="the table, JSON; its other entries stay")
    options = parser.parse_args(argv)
    if torch.device(options.device).type == "cpu" and not options.quick:
        parser.error("Times of Triton's interpreter mean nothing: pass --quick, or --device cuda where there is a GPU.")
    return options


def _shapes(options: argparse.Namespace) -> list[Shape]:
    if options.quick:
        return [QUICK]
    known = {shape.name: shape for shape in shapes("cuda")}
    unknown = [name for name in options.shapes if name not in known]
    if unknown:
        raise ValueError(f"There is no shape {unknown[0]!r}: pass some of {', '.join(known)}.")
    return [known[name] for name in options.shapes]


if __name__ == "__main__":
    main()
