"""The margin of every held-out pair at each evaluation of a run, kept so that nothing later runs the pairs again."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.checksums import Damaged
from iwpo_fast.data import Pairs
from iwpo_fast.evaluation.preference import without_rounding
from iwpo_fast.files import load_with_metadata, save_tensors

TOKENS = "tokens"
"""The entry of the metadata that says which pairs they are of."""


class Margins(NamedTuple):
    """Float64 [P] each, on any device.

    Attributes:
        margin: reward of the chosen minus reward of the rejected completion.
        size: sizes of both rewards, by which a margin may be rounding alone.
    """

    margin: Tensor
    size: Tensor

    def settled(self) -> np.ndarray:
        """The margins, 0 where they may be rounding alone."""
        return without_rounding(self.margin.cpu().numpy(), self.size.cpu().numpy())

    @classmethod
    def empty(cls, pairs: Pairs, device: torch.device) -> Margins:
        return cls(*torch.zeros(2, len(pairs), dtype=torch.float64, device=device))

    def put(self, rows: Tensor, found: Margins) -> None:
        """Take over what was found of these rows, int64."""
        self.margin[rows], self.size[rows] = found


def area_under_curve(margins: Margins, present: np.ndarray) -> float | None:
    """How often a desirable completion has a higher implicit reward than an undesirable one, ties as half.

    This is the area under the ROC curve, over the rows with one completion.

    Args:
        present: bool [P, 2], as of `Pairs`; the margin of a row with one completion is its reward, or minus that.

    Returns:
        None where one of the two kinds is missing.
    """
    desirable, undesirable = present[:, 0] & ~present[:, 1], present[:, 1] & ~present[:, 0]
    if not (desirable.any() and undesirable.any()):
        return None
    settled = margins.settled()
    rewards, others = settled[desirable], np.sort(-settled[undesirable])
    below, not_above = (np.searchsorted(others, rewards, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(others)))


def keep_margins(folder: Path, step: int, pairs: Pairs, margins: Margins) -> None:
    """Write what the policy of a step says of the pairs, unless it is not finite, as of weights that no run keeps."""
    if not all(bool(values.isfinite().all()) for values in margins):
        return
    save_tensors(_file(folder, step), margins._asdict(), {TOKENS: pairs.token_fingerprint()})


def kept_margins(folder: Path, step: int, pairs: Pairs) -> Margins | None:
    """What `keep_margins` wrote of these pairs; None where it did not, or where the file is damaged."""
    try:
        found, about = load_with_metadata(_file(folder, step))
    except (Damaged, FileNotFoundError):
        return None
    if about.get(TOKENS) != pairs.token_fingerprint() or found.keys() != set(Margins._fields):
        return None
    return Margins(**{name: torch.from_numpy(values) for name, values in found.items()})


def _file(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"
