"""Compiles kernels for GPUs that are not there, and reads from the binaries what they need.

Run as a script, in a process without TRITON_INTERPRET: `python ahead_of_time.py <share> <of>` records the launches
of `launching_calls.every_call`, compiles its share of them for all targets, and prints one `Report` as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KIB = 1024
SHARED_MEMORY_LIMIT = {"sm_80": 163 * KIB, "sm_90": 227 * KIB, "sm_100": 227 * KIB, "gfx942": 64 * KIB}
RANDOM_CALLS, SEEDS = 300, 2
COMPARED = ("token_logps_kernel", "bf16")  # whose launches for unaligned rows are looked at too


@dataclass(frozen=True)
class Usage:
    """What one compilation needs; spills are bytes on NVIDIA and registers on AMD.

    Attributes:
        aligned: whether it is for rows that begin at multiples of 16 bytes, on sm_90.
        narrow: its accesses to global memory of one or two bytes a thread, on sm_90.
        wide: its loads of 16 bytes a thread, on sm_90.
        warpgroups: whether products are Hopper's, of four warps at once.
    """

    launch: str
    kernel: str
    architecture: str
    registers: int
    spills: int
    shared: int
    atomics: bool
    aligned: bool = False
    narrow: int = 0
    wide: int = 0
    warpgroups: bool = False


@dataclass(frozen=True)
class Report:
    """Of one process: what it compiled, kernels that exist, and launches of random calls that nobody compiles."""

    usages: list[Usage]
    kernels: list[str]
    unforeseen: list[str]


def compile_share(share: int, of: int) -> Report:
    """Every `of`-th launch and target, compiled. Random calls are shared out by their seeds."""
    from launches import Target, launches
    from launching_calls import ONE_TYPE, STANDING, aligned_calls, epilogue_calls, every_call, random_calls

    calls = every_call()
    nvidia, amd = launches(calls, Target("sm_90")), launches(calls, Target("gfx942"))
    wanted = {
        Target("sm_90"): [*nvidia, *launches(epilogue_calls(), Target("sm_90"))],
        Target("gfx942"): [*amd, *launches(epilogue_calls(STANDING), Target("gfx942"))],
        Target("gfx942", large=True): _kinds(
            launches([*every_call(ONE_TYPE), *epilogue_calls(ONE_TYPE)], Target("gfx942", large=True))
        ),
    }
    for target in (Target("sm_80"), Target("sm_100")):
        wanted[target] = _kinds([*nvidia, *launches(epilogue_calls(STANDING), target)])
    jobs = [
        (launch, target)
        for target, of_target in wanted.items()
        for launch in of_target
        if target.architecture == "sm_90" or "fp16" not in str(launch)
    ]
    known = {str(launch) for launch in nvidia}
    aligned = {str(launch) for launch in launches(aligned_calls(), Target("sm_90")) if "fp16" not in str(launch)}
    others = [
        launch
        for seed in range(share, SEEDS, of)
        for launch in launches(random_calls(RANDOM_CALLS, seed), Target("sm_90"))
    ]
    return Report(
        [_usage(launch, target, aligned) for launch, target in jobs[share::of]],
        _kernels(),
        [str(launch) for launch in others if str(launch) not in known],
    )


def compile_all() -> list[Report]:
    """All launches for all targets, in processes that do not interpret: two, or one where tests run side by side."""
    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["OMP_NUM_THREADS"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(share), str(workers)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for share in range(workers)
    ]
    reports = []
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        fields = json.loads(output.splitlines()[-1])
        reports.append(Report(**fields | {"usages": [Usage(**usage) for usage in fields["usages"]]}))
    return reports


def _kinds(launches: list[Any]) -> list[Any]:
    """One launch of each kernel with its constants and types: the first, whose rows are aligned.

    What else alignment makes of them is seen on one GPU of each maker.
    """
    kinds: dict[tuple[str, ...], Any] = {}
    for one in launches:
        constants = sorted(f"{path} {value}" for path, value in one.constants.items())
        kinds.setdefault((one.kernel.__name__, str(one.signature), *constants, str(one.options)), one)
    return list(kinds.values())


def _kernels() -> list[str]:
    """Names of the kernels in every `kernels.py` of the package."""
    import iwpo_kernels

    modules = pkgutil.walk_packages(iwpo_kernels.__path__, "iwpo_kernels.")
    found = [importlib.import_module(module.name) for module in modules if module.name.endswith(".kernels")]
    return [name for module in found for name in vars(module) if name.endswith("_kernel")]


def _usage(launch: Any, target: Any, aligned: set[str]) -> Usage:
    compiled = launch.compiled(target)
    assembly = compiled.asm
    is_aligned = target.architecture == "sm_90" and str(launch) in aligned
    is_compared = target.architecture == "sm_90" and all(word in str(launch) for word in COMPARED)
    is_looked_at = is_aligned or is_compared
    narrow, wide = _accesses(assembly["cubin"]) if is_looked_at else (0, 0)
    registers, spills = _amd_usage(assembly["amdgcn"]) if target.is_amd else _cuda_usage(assembly["cubin"])
    return Usage(
        launch=str(launch),
        kernel=launch.kernel.__name__,
        architecture=target.architecture,
        registers=registers,
        spills=spills,
        shared=compiled.metadata.shared,
        atomics="tt.atomic" in assembly["ttir"],
        aligned=is_aligned,
        narrow=narrow,
        wide=wide,
        warpgroups="wgmma" in assembly.get("ptx", ""),
    )


def _amd_usage(assembly: str) -> tuple[int, int]:
    def number(key: str) -> int:
        return int(_found(rf"\.{key}:\s+(\d+)", assembly))

    return number("vgpr_count"), number("vgpr_spill_count") + number("sgpr_spill_count")


def _cuda_usage(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of local memory: what ptxas spilled lies there."""
    report = _read_by("cuobjdump", cubin, "-res-usage")
    registers, stack, local = (int(_found(rf"{key}:(\d+)", report)) for key in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


def _accesses(cubin: bytes) -> tuple[int, int]:
    """Accesses to global memory of one or two bytes a thread, and loads of 16 bytes, in the machine code."""
    code = _read_by("nvdisasm", cubin, "-c", "-ndf")  # instructions alone, which takes two thirds of the time
    narrow = re.findall(r"\b(?:LDG|STG)\.E[.\w]*\.[SU](?:8|16)\b", code)
    return len(narrow), len(re.findall(r"\bLDG\.E[.\w]*\.128\b", code))


def _read_by(tool: str, cubin: bytes, *options: str) -> str:
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [getattr(knobs.nvidia, tool).path, *options, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, pattern
    return match.group(1)


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    print(json.dumps(asdict(compile_share(int(sys.argv[1]), int(sys.argv[2])))))
