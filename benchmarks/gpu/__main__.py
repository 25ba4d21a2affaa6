"""`python -m benchmarks.gpu`; `first.sh` calls it, and sets what it needs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import ROOT, describe, slug
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.runner import PAGE, Runner, exit_status


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The first run on a GPU: tests, a probe, and the tables.")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--list", action="store_true", help="say what the parts are, and stop")
    parser.add_argument("--quick", action="store_true", help="every part at tiny size on a CPU")
    parser.add_argument("--commit", help="where there is no git; so does $IWPO_COMMIT")
    options = parser.parse_args(argv)
    if options.list:
        for part in PARTS:
            print(f"{part.name:10}{part.limit:4} s  {part.file:14}{part.what}")
        return 0
    if not options.quick and not torch.cuda.is_available():
        parser.error("there is no GPU here; --quick runs every part at tiny size on a CPU")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the part under way is ended too
    device = torch.device("cpu" if options.quick else "cuda")
    facts = _machine(device, options.commit)
    runner = Runner(_folder(facts, options.quick), facts, options.quick)
    outcomes = runner.run([part for part in PARTS if part.name in options.parts])
    print((runner.out / PAGE).read_text())
    print(f"All of it is in {runner.out}.")
    return exit_status([outcome["status"] for outcome in outcomes], options.quick)


def _machine(device: torch.device, commit: str | None) -> dict[str, Any]:
    """Facts on it, asked in a process whose hold on a GPU ends with it."""
    if device.type == "cpu":
        return describe(device, commit)
    with ProcessPoolExecutor(1, get_context("spawn")) as aside:
        return aside.submit(describe, device, commit).result()


def _folder(facts: dict[str, Any], quick: bool) -> Path:
    if given := os.environ.get("OUT"):
        return Path(given)
    if quick:
        return ROOT / "build" / "gpu-quick"
    return ROOT / "benchmarks" / "results" / f"gpu-{slug(facts)}-{date.today().isoformat()}"


if __name__ == "__main__":
    sys.exit(main())
