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

from iwpo_fast.data.unique import Numbered, UniqueTexts
from iwpo_fast.files import remove_leftovers, save_tensors, written_aside

logger = logging.getLogger(__name__)

Halves = NDArray[np.float16]


@dataclass(frozen=True)
class FeatureStore:
    """`prompt.npy` [M, d] and `response.npy` [C, d] in `folder`, both float16; each appears when it is whole.

    Until then `parts` holds one file for each batch, which appears when it is whole too, so that ranks never write
    to the same file and a kill costs the batch under way alone. A part is found by the rows of its batch.
    """

    folder: Path
    texts: UniqueTexts

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

    def sources(self, name: str, rows: np.ndarray) -> np.ndarray:
        """int64: sequences of the batch of these rows from which rows of the array `name` are filled."""
        numbered, places = self._places(name, rows)
        return np.flatnonzero(numbered.firsts[places])

    def save_part(self, rows: np.ndarray, tensors: Mapping[str, Tensor]) -> None:
        """Keep the results of a batch: `prompt` and `response`, float16 [.., d] as in `sources`, and others."""
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
        """Write the two arrays from the parts of these batches, which hold all rows of the data."""
        remove_leftovers(self.folder)
        for name in ("prompt", "response"):
            width = self.read_part(batches[0], name).shape[1]
            with written_aside(self.folder / f"{name}.npy") as aside:
                shape = (len(self._places(name, batches[0])[0].first), width)
                whole = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float16, shape=shape)
                for rows in batches:
                    numbered, places = self._places(name, rows)
                    whole[numbered.of[places[self.sources(name, rows)]]] = self.read_part(rows, name)
                whole.flush()

    def remove_parts(self) -> None:
        shutil.rmtree(self.folder / "parts", ignore_errors=True)

    def _part(self, rows: np.ndarray) -> Path:
        digest = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
        return self.folder / "parts" / f"{digest[:32]}.safetensors"

    def _places(self, name: str, rows: np.ndarray) -> tuple[Numbered, np.ndarray]:
        """What numbers the rows of the array `name`, and where the batch's sequences stand among the numbered."""
        if name == "prompt":
            return self.texts.prompts, rows
        return self.texts.responses, np.concatenate([2 * rows, 2 * rows + 1])
