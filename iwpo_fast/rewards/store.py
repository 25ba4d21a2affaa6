"""Features on disk: a part for each finished batch, until two whole arrays take their place.

A folder has `prompt.npy` [M, d] and `response.npy` [C, d], both float16; each appears when it is complete. Until then
`parts` has one file for each batch, which appears when it is complete too, so that ranks never write to the same file
and a kill costs the batch under way alone. A part is named after the responses of its batch.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from iwpo_fast.data.unique import Responses
from iwpo_fast.files import remove_leftovers, save_tensors, written_aside
from iwpo_fast.rewards.blocks import Ints

logger = logging.getLogger(__name__)


def load(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Features of prompts and responses, memory-mapped and read-only; None if they are absent or cannot be read."""
    paths = [folder / "prompt.npy", folder / "response.npy"]
    if not all(path.exists() for path in paths):
        return None
    try:
        prompt, response = (np.load(path, mmap_mode="r") for path in paths)
    except (ValueError, EOFError):
        logger.warning("The cached features in %s cannot be read: computing them again.", folder)
        return None
    return prompt, response


def save_part(folder: Path, batch: Ints, tensors: Mapping[str, Tensor]) -> None:
    """Keep the results of a batch: `response`, float16 [.., d]; `prompt`, the same for those of its responses that are
    the first of their prompt; and others."""
    save_tensors(_part(folder, batch), tensors)


def names_in_part(folder: Path, batch: Ints) -> set[str]:
    """Names of the batch's results; none if it is not finished."""
    if not _part(folder, batch).exists():
        return set()
    try:
        with safe_open(_part(folder, batch), "np") as part:
            return set(part.keys())
    except SafetensorError:
        return set()


def read_part(folder: Path, batch: Ints, name: str) -> np.ndarray:
    with safe_open(_part(folder, batch), "np") as part:
        return part.get_tensor(name)


def join_parts(folder: Path, responses: Responses, batches: Sequence[Ints]) -> None:
    """Write the two arrays from the parts of these batches, which hold all responses."""
    remove_leftovers(folder)
    for name in ("prompt", "response"):
        width = read_part(folder, batches[0], name).shape[1]
        with written_aside(folder / f"{name}.npy") as aside:
            shape = (len(responses.prompts if name == "prompt" else responses), width)
            array = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float16, shape=shape)
            for batch in batches:
                first_of_prompt = batch[responses.first_of_prompt[batch]]
                rows = responses.prompt_of[first_of_prompt] if name == "prompt" else batch
                array[rows] = read_part(folder, batch, name)
            array.flush()


def remove_parts(folder: Path) -> None:
    shutil.rmtree(folder / "parts", ignore_errors=True)


def _part(folder: Path, batch: Ints) -> Path:
    digest = hashlib.sha256(batch.astype("<i8").tobytes()).hexdigest()
    return folder / "parts" / f"{digest[:32]}.safetensors"
