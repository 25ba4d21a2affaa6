"""Features on disk: a part for each finished batch, until two whole arrays take their place."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from iwpo_fast.data.unique import Responses
from iwpo_fast.files import remove_leftovers, save_tensors, written_aside

logger = logging.getLogger(__name__)

Halves = NDArray[np.float16]


@dataclass(frozen=True)
class FeatureStore:
    """`prompt.npy` [M, d] and `response.npy` [C, d] in `folder`, both float16; each appears when it is whole.

    Until then `parts` holds one file for each batch, which appears when it is whole too, so that ranks never write
    to the same file and a kill costs the batch under way alone. A part is found by the responses of its batch.
    """

    folder: Path
    responses: Responses

    def load(self) -> tuple[Halves, Halves] | None:
        """The two arrays, memory-mapped and read-only; None if they are not there, or cannot be read."""
        paths = [self.folder / "prompt.npy", self.folder / "response.npy"]
        if not all(path.exists() for path in paths):
            return None
        try:
            prompt, response = (np.load(path, mmap_mode="r") for path in paths)
        except (ValueError, EOFError):
            logger.warning("The cached features in %s cannot be read: computing them again.", self.folder)
            return None
        return prompt, response

    def save_part(self, rows: np.ndarray, tensors: Mapping[str, Tensor]) -> None:
        """Keep the results of a batch of these responses: `response`, float16 [.., d]; `prompt`, likewise, of those
        that are the first of their prompt; and others."""
        save_tensors(self._part(rows), tensors)

    def names_in_part(self, rows: np.ndarray) -> set[str]:
        """Names of the batch's results; none if it is not finished."""
        if not self._part(rows).exists():
            return set()
        try:
            with safe_open(self._part(rows), "np") as part:
                return set(part.keys())
        except SafetensorError:
            return set()

    def read_part(self, rows: np.ndarray, name: str) -> np.ndarray:
        with safe_open(self._part(rows), "np") as part:
            return part.get_tensor(name)

    def join(self, batches: Sequence[np.ndarray]) -> None:
        """Write the two arrays from the parts of these batches, which hold all responses."""
        remove_leftovers(self.folder)
        for name in ("prompt", "response"):
            width = self.read_part(batches[0], name).shape[1]
            with written_aside(self.folder / f"{name}.npy") as aside:
                shape = (len(self.responses.prompts if name == "prompt" else self.responses), width)
                whole = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float16, shape=shape)
                for rows in batches:
                    whole[self._places(name, rows)] = self.read_part(rows, name)
                whole.flush()

    def remove_parts(self) -> None:
        shutil.rmtree(self.folder / "parts", ignore_errors=True)

    def _part(self, rows: np.ndarray) -> Path:
        digest = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
        return self.folder / "parts" / f"{digest[:32]}.safetensors"

    def _places(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Rows of the array `name` that the part of these responses fills."""
        if name == "response":
            return rows
        return self.responses.prompt_of[rows[self.responses.first_of_prompt[rows]]]
