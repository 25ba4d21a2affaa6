"""How the product is cut up on each kind of GPU."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch

from iwpo_kernels.linear_token_logps.tuned import Mode


@dataclass(frozen=True)
class Tile:
    """What one program makes, and how.

    Attributes:
        rows: tokens.
        columns: of the slice.
        features: of each step along the hidden size.
        pieces: 1 or 2, into how many the columns are split once their logits are there: fewer registers at a time.
        descriptors: whether matrices are read and written through tensor descriptors, which is TMA's way.
    """

    rows: int
    columns: int
    features: int
    warps: int
    stages: int
    pieces: int = 1
    descriptors: bool = False

    @property
    def piece(self) -> int:
        """Columns of a piece."""
        return self.columns // self.pieces


HOPPER = Tile(256, 128, 64, warps=8, stages=4, pieces=2, descriptors=True)
AMPERE = Tile(128, 128, 64, warps=8, stages=3)
CDNA3 = Tile(128, 128, 64, warps=8, stages=2)
FLOAT32 = Tile(128, 64, 16, warps=8, stages=2)  # without tensor cores operands take registers too

# None of them spills, softcap and masses or not. Later GPUs of a family may have less shared memory, so only those that
# were compiled for are listed.
TILES = {"sm_80": AMPERE, "sm_90": HOPPER, "sm_100": HOPPER, "gfx942": CDNA3}

# Up to which hidden size the epilogue was faster than a row kernel behind cuBLAS's product: on an H100, at 4,096 tokens
# and vocabularies of 128,256 and 151,936. Without masses it won at each of 896, 2,048, 2,560 and 4,096, and what it
# saves does not depend on the size; with masses it won at 2,560 and lost 3 % at 4,096.
WIDEST: dict[tuple[str, Mode], float] = {("sm_90", "no gradient"): inf, ("sm_90", "frozen"): 3072}


def tile_for(architecture: str, dtype: torch.dtype) -> Tile | None:
    """None where the product is not made here."""
    return FLOAT32 if dtype == torch.float32 and architecture in TILES else TILES.get(architecture)


def pays(architecture: str, features: int, mode: Mode) -> bool:
    """Whether the product made here was measured to be faster than a library's with a row kernel behind it."""
    return features <= WIDEST.get((architecture, mode), 0)
