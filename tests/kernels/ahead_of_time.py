"""Compiles kernel variants for GPUs that are not there, and reads from the binaries what they need.

Run as a script, in a process without TRITON_INTERPRET: `python ahead_of_time.py <share> <of>` compiles
its share of all variants for all targets and prints one JSON list of `Usage` fields.
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

KIB = 1024
SHARED_MEMORY_LIMIT = {"sm_80": 163 * KIB, "sm_90": 227 * KIB, "sm_100": 227 * KIB, "gfx942": 64 * KIB}


@dataclass(frozen=True)
class Usage:
    variant: str
    target: str
    registers: int
    spills: int
    shared: int


def all_variants() -> list:
    """Variants of every `kernels.py` of the package."""
    import iwpo_kernels

    found = []
    for module in pkgutil.walk_packages(iwpo_kernels.__path__, "iwpo_kernels."):
        if module.name.endswith(".kernels"):
            found += importlib.import_module(module.name).variants()
    return found


def compile_share(share: int, of: int) -> list[Usage]:
    """Every `of`-th (variant, target), compiled."""
    jobs = [(variant, target) for variant in all_variants() for target in SHARED_MEMORY_LIMIT]
    return [_compile(variant, target) for variant, target in jobs[share::of]]


def compile_all(workers: int = 2) -> list[Usage]:
    """All variants for all targets, in `workers` processes that do not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
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
    usages = []
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        usages += [Usage(**fields) for fields in json.loads(output.splitlines()[-1])]
    return usages


def _compile(variant, target: str) -> Usage:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    is_amd = target.startswith("gfx")
    gpu = GPUTarget("hip", target, 64) if is_amd else GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    names = variant.kernel.arg_names
    signature = {name: variant.types.get(name, "constexpr") for name in names}
    assert signature.keys() == variant.types.keys() | variant.constants.keys(), str(variant)
    attributes: dict[tuple[int], list] = {}
    for i, name in enumerate(names):
        is_pointer = signature[name].startswith("*")
        if is_pointer or name in variant.divisible:
            attributes[(i,)] = [["tt.divisibility", 16]]
        if is_pointer and is_amd:  # tensors below 2 GiB, which take buffer instructions
            attributes[(i,)].append(["tt.pointer_range", 32])
    options = {"num_warps": variant.num_warps}
    if variant.num_stages is not None:
        options["num_stages"] = variant.num_stages
    if variant.max_registers is not None and not is_amd:
        options["maxnreg"] = variant.max_registers
    source = ASTSource(variant.kernel, signature, dict(variant.constants), attributes)
    compiled = triton.compile(source, target=gpu, options=options)
    registers, spills = _amd_usage(compiled.asm["amdgcn"]) if is_amd else _cuda_usage(compiled.asm["cubin"])
    return Usage(str(variant), target, registers, spills, compiled.metadata.shared)


def _amd_usage(assembly: str) -> tuple[int, int]:
    def number(key: str) -> int:
        return int(re.search(rf"\.{key}:\s+(\d+)", assembly).group(1))

    return number("vgpr_count"), number("vgpr_spill_count") + number("sgpr_spill_count")


def _cuda_usage(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of local memory: what ptxas spilled lies there."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", report).group(1)) for key in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    print(json.dumps([asdict(usage) for usage in compile_share(int(sys.argv[1]), int(sys.argv[2]))]))
