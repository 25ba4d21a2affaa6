"""Where the numbers were measured: device, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "triton", "transformers", "trl", "liger-kernel", "cut-cross-entropy", "numpy")
ROOT = Path(__file__).resolve().parents[1]
MEASURED = ("kernels", "benchmarks")


def describe(device: torch.device, commit: str | None) -> dict[str, Any]:
    """JSON-ready facts; `commit` overrides git and $IWPO_COMMIT."""
    return {
        "device": _device(device),
        "versions": {"python": platform.python_version(), **versions()},
        "system": platform.platform(),
        **_commit(commit),
    }


def slug(facts: dict[str, Any]) -> str:
    """The name of the device among the facts, as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", facts["device"]["name"].lower()).strip("-")


def _device(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": _device_name(device), "type": device.type}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return facts | {
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "l2_mib": properties.L2_cache_size / 2**20,
            "runtime": torch.version.cuda or torch.version.hip,
        }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts |= {"memory_gib": round(memory / 2**30, 1), "cores": os.cpu_count()}
    return facts | {"threads": torch.get_num_threads(), "load_before": os.getloadavg()}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Of those of the packages that are installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def _commit(given: str | None) -> dict[str, Any]:
    """`dirty` is true where kernels or benchmarks differ from the commit, and null where nobody can tell."""
    given = given or os.environ.get("IWPO_COMMIT")
    commit = given or _git("rev-parse", "HEAD")
    if given or commit is None:
        return {"commit": commit, "dirty": None}
    changes = _git("status", "--porcelain", "--", *MEASURED, ":!benchmarks/results")
    return {"commit": commit, "dirty": bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
