"""Processes forked from one that has imported what takes seconds to import, so that each starts at once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HANG = 600.0
"""Seconds after which a process is stuck. Whatever a test waits for may take as long, on a machine that is busy."""

PRELOADED = [
    "iwpo_fast.cli_parser",
    "iwpo_fast.pipeline.run",
    "iwpo_fast.training",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "peft",
    "pyarrow.dataset",
    "sklearn.cluster",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.debug",
    "transformers.models.gemma2.modeling_gemma2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Done:
    """How a process ended, and what it wrote to both of its outputs."""

    exitcode: int | None
    said: str


def run_forked(function: Callable[..., Any], *arguments: Any) -> Done:
    """Call `function(*arguments)` in a process of its own, and wait for its end.

    Raises:
        TimeoutError: it has not come.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said.txt"
        process = CONTEXT.Process(target=_run, args=(said, function, arguments), daemon=True)
        process.start()
        process.join(HANG)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{function.__name__} has not ended in {HANG:.0f} seconds: {said.read_text()}")
        return Done(process.exitcode, said.read_text())


def leave_imports_to_themselves() -> None:
    """Called first in a forked process: the garbage collector, which stages call, skips what was there before the fork.

    It would visit every object of every library, and so copy the memory that the processes share.
    """
    gc.freeze()


def _run(said: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT)
    for output in (1, 2):
        os.dup2(file, output)
    leave_imports_to_themselves()
    function(*arguments)
