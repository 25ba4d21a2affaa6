"""Features on disk: a part for each finished batch, until two whole arrays take their place.

A folder has `prompt.npy` [M, d] and `response.npy` [C, d], both float16, and `checksums.json` with their hashes; each
appears when it is complete. Until then `parts` has one file for each batch, which appears when it is complete too, so
that ranks never write to the same file and a kill costs the batch under way alone. A part is named after the responses
of its batch. One job at a time computes in a folder, and others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from iwpo_fast import checksums
from iwpo_fast.checksums import Damaged
from iwpo_fast.data.unique import Responses
from iwpo_fast.files import (
    check_readable,
    load_record,
    load_tensors,
    remove_leftovers,
    save_record,
    save_tensors,
    written_aside,
)
from iwpo_fast.rewards.blocks import Ints

RECORD, PARTS, LOCK = "checksums.json", "parts", "lock"
ARRAYS = ("prompt", "response")

logger = logging.getLogger(__name__)


def load(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Features of prompts and responses, memory-mapped and read-only; None if they are absent or damaged.

    Raises:
        ValueError: they may not be read.
    """
    paths = [folder / f"{name}.npy" for name in ARRAYS]
    if not all(path.exists() for path in paths):
        return None
    for path in paths:
        check_readable(path)
    try:
        if (folder / RECORD).exists() and checksums.changed(folder, load_record(folder / RECORD)["files"]):
            raise Damaged(folder)
        prompt, response = (np.load(path, mmap_mode="r") for path in paths)
    except (ValueError, EOFError, KeyError, AttributeError):
        logger.warning("The cached features in %s are damaged: computing them again.", folder)
        return None
    return prompt, response


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let no other job compute in the folder while the body runs; waits for one that does, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            print(f"another process is computing the features in {folder}: waiting for it", flush=True)
            fcntl.lockf(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which lets go of it


def save_part(folder: Path, batch: Ints, tensors: Mapping[str, Tensor]) -> None:
    """Keep the results of a batch: `response`, float16 [.., d]; `prompt`, the same for those of its responses that are
    the first of their prompt; and others."""
    save_tensors(_part(folder, batch), tensors)


def names_in_part(folder: Path, batch: Ints) -> set[str]:
    """Names of the batch's results; none if it is not finished, or they are damaged."""
    try:
        return set(load_tensors(_part(folder, batch)))
    except (Damaged, FileNotFoundError):
        return set()


def read_part(folder: Path, batch: Ints) -> dict[str, np.ndarray]:
    """What `save_part` kept.

    Raises:
        Damaged: it is something else by now.
    """
    return load_tensors(_part(folder, batch))


def join_parts(folder: Path, responses: Responses, batches: Sequence[Ints]) -> None:
    """Write the two arrays from the parts of these batches, which hold all responses."""
    remove_leftovers(folder)
    width = read_part(folder, batches[0])["response"].shape[1]
    with written_aside(folder / "prompt.npy") as of_prompts, written_aside(folder / "response.npy") as of_responses:
        prompt = _new_array(of_prompts, len(responses.prompts), width)
        response = _new_array(of_responses, len(responses), width)
        for batch in batches:
            part = read_part(folder, batch)
            prompt[responses.prompt_of[batch[responses.first_of_prompt[batch]]]] = part["prompt"]
            response[batch] = part["response"]
        prompt.flush()
        response.flush()
    save_record(folder / RECORD, {"files": checksums.of_files(folder, folder.glob("*.npy"))})


def has_parts(folder: Path) -> bool:
    return (folder / PARTS).exists()


def remove_parts(folder: Path) -> None:
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _new_array(path: Path, rows: int, width: int) -> np.memmap[Any, np.dtype[np.float16]]:
    """A float16 array [rows, width] in a file, whose room is reserved: a full disk then is an error, and no SIGBUS."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, width))
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _part(folder: Path, batch: Ints) -> Path:
    digest = hashlib.sha256(batch.astype("<i8").tobytes()).hexdigest()
    return folder / PARTS / f"{digest[:32]}.safetensors"
