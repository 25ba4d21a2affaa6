"""Peak memory of one call on a CPU, in a process forked for this alone.

`python -m benchmarks.peak_memory` answers requests on its standard input, one line of JSON each. It has the imports
behind it but never runs an operator itself, as a fork would break its thread pool.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

import torch

from benchmarks.suite import Shape, Suite

SUITES = ("linear_token_logps", "token_logps", "weighted_preference")
IMPORTS = {  # slow ones, which the forked processes then have; custom operators need Dynamo
    "ours": ("iwpo_kernels", "torch._dynamo"),
    "torch": ("torch._dynamo",),
    "trl": ("trl.kernels", "trl.trainer.utils"),
    "liger": ("liger_kernel.chunked_loss",),
}


def suite(name: str) -> Suite:
    return import_module(f"benchmarks.{name}.variants").SUITE


def extra_mib(name: str, key: str, shape: Shape, threads: int) -> float:
    """MiB of resident memory at the peak of one call, beyond that with only the inputs in place.

    The kernel's high-water mark sees the scratch buffers of oneDNN and MKL, which PyTorch's own counts do not; what a
    library needs once per process is left out by a call at a tiny shape before.

    Raises:
        RuntimeError: the call failed or its process was killed; or the system has no `/proc/self/clear_refs`.
    """
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    request = {"name": name, "key": key, "shape": shape.as_dict(), "threads": threads}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    answer = json.loads(server.stdout.readline())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["mib"]


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, bufsize=1
    )
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        for module in IMPORTS.get(suite(request["name"]).variant(request["key"]).library, ()):
            with suppress(ImportError):
                import_module(module)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            os.write(write, json.dumps(_answer(request)).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        killed = {"error": f"its process ended with status {status}, most likely out of memory"}
        print(answer or json.dumps(killed), flush=True)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    shape = Shape.from_dict(request["shape"])
    try:
        return {"mib": _measure(suite(request["name"]), request["key"], shape, request["threads"])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _measure(measured: Suite, key: str, shape: Shape, threads: int) -> float:
    torch.set_num_threads(threads)
    variant, device = measured.variant(key), torch.device("cpu")
    small = replace(shape, sequences=2, tokens=16, hidden=min(shape.hidden, 16), vocab=64)
    variant.prepare(measured.build(small, device, 0))()
    run = variant.prepare(measured.build(shape, device, 0))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status_kib("VmRSS")
    results = run()
    peak = _status_kib("VmHWM")
    del results
    return (peak - before) / 1024


def _status_kib(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{field}:"))


if __name__ == "__main__":
    _serve()
