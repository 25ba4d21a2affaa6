"""One slice of the streamed operator with the exponentials in the product's epilogue, instead of in a row kernel.

Whether rows must be done again is decided on the device: what is launched for them returns at once where none need it,
so that the host waits for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from iwpo_kernels.linear_token_logps.epilogue import kernels
from iwpo_kernels.linear_token_logps.epilogue.architecture import architecture
from iwpo_kernels.linear_token_logps.epilogue.tiles import Tile, tile_for
from iwpo_kernels.linear_token_logps.kernels import M, slack
from iwpo_kernels.linear_token_logps.types import Head

SEED_COLUMNS = 2048  # about one wave of tiles, which spares most first slices from being done twice
GROUP = 16  # blocks of rows; with 8 of columns they fill a chip, and each matrix is read about as often as the other
SETTLE_ROWS = 32
SETTLE_PIECES = 32
ALIGNMENT = 16  # bytes, for a descriptor; and features, for wide loads without one, because Triton looks at the length

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def serves(x: Tensor, weight: Tensor, bias: Tensor | None, stats: bool, saves: bool) -> bool:
    """Whether `stream_slice` can take the slices of `weight` [V, H] for x [R, H].

    Masses, where wanted, must have rows that are aligned likewise: 16 bytes.
    """
    if bias is not None or stats or saves or x.dtype != weight.dtype or x.dtype not in DTYPES:
        return False
    if tile_for(architecture(x.device), x.dtype) is None or not (x.numel() and weight.numel()):
        return False
    return x.shape[1] % ALIGNMENT == 0 and _is_aligned(x) and _is_aligned(weight)


def _is_aligned(matrix: Tensor) -> bool:
    starts = matrix.data_ptr() % ALIGNMENT == 0 and matrix.stride(0) * matrix.element_size() % ALIGNMENT == 0
    return starts and matrix.stride(1) == 1


def stream_slice(
    x: Tensor, weight_slice: Tensor, labels: Tensor, state: Tensor, first: int, masses: Tensor | None, head: Head
) -> None:
    """What the logits of one slice add to the state, and their exponentials if wanted; they exist in registers only.

    Args:
        x: [R, H], 16 or 32 bits.
        weight_slice: [C, H], like x: columns first : first + C of the vocabulary. Without masses it may be all of it.
        labels: int64 [R].
        state: float32 [9, R], planes as in `linear_token_logps.kernels`. M, MASS and FACTOR are written, and where the
            label is in the slice LABEL_Z and LABEL_SLOPE.
        masses: [R, C], like x, receives f' · exp(z − m) with 0 at the label; None where nobody wants them.
    """
    tile = tile_for(architecture(x.device), x.dtype)
    assert tile is not None, f"no tiles for {architecture(x.device)}"
    part = _Slice(x, weight_slice, labels, state, first, head, tile)
    reference = state[M.value]
    if masses is None:
        part.settle(part.product(reference), reference)
        return
    if first == 0:  # otherwise a row without a reference gets one when it is done again
        reference = part.seed()
    again = _Again(torch.empty_like(reference), torch.empty_like(reference))
    parts = part.product(reference, masses)
    part.settle(parts, reference, again)
    part.product(again.reference, masses, again, parts)
    part.settle(parts, again.reference, again, redo=True)


@dataclass(frozen=True)
class _Again:
    """Two float32 [R]: the references of rows that are done twice, and flags, 0 for rows that are not."""

    reference: Tensor
    flag: Tensor


@dataclass(frozen=True)
class _Slice:
    x: Tensor
    weight: Tensor
    labels: Tensor
    state: Tensor
    first: int
    head: Head
    tile: Tile

    @property
    def rows(self) -> int:
        return self.x.shape[0]

    def product(
        self,
        reference: Tensor,
        masses: Tensor | None = None,
        again: _Again | None = None,
        parts: Tensor | None = None,
        columns: int | None = None,
    ) -> Tensor:
        """Sums and maxima of the pieces, float32 [2, pieces, R]; only of the rows to be done again if they are given.

        Args:
            columns: of the slice, from its beginning; all without.
        """
        x, tile, ceiling = self.x, self.tile, self.head.ceiling
        weight = self.weight if columns is None else self.weight[:columns]
        columns = weight.shape[0]
        if parts is None:
            pieces = triton.cdiv(columns, tile.piece)
            parts = torch.empty(2, pieces, self.rows, device=x.device, dtype=torch.float32)
        kernels.product_kernel[(triton.cdiv(self.rows, tile.rows) * triton.cdiv(columns, tile.columns),)](
            self._operand(x, tile.rows, tile.features),
            self._operand(weight, tile.columns, tile.features),
            x if masses is None else self._operand(masses, tile.rows, tile.piece),
            self.labels,
            self.state,
            parts,
            reference,
            reference if again is None else again.flag,
            x.stride(0),
            weight.stride(0),
            0 if masses is None else masses.stride(0),
            self.state.stride(0),
            parts.stride(0),
            self.rows,
            columns,
            x.shape[1],
            self.first,
            int(again is not None),
            self.head.slope,
            ceiling or 0.0,
            1 / (ceiling or 1.0),
            SOFTCAP=ceiling is not None,
            MASSES=masses is not None,
            DESCRIPTORS=tile.descriptors,
            BLOCK_R=tile.rows,
            BLOCK_C=tile.columns,
            BLOCK_H=tile.features,
            GROUP=GROUP,
            PIECES=tile.pieces,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        return parts

    def _operand(self, matrix: Tensor, rows: int, columns: int) -> Tensor | TensorDescriptor:
        if not self.tile.descriptors:
            return matrix
        return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), [rows, columns])

    def seed(self) -> Tensor:
        """References [R]: the row's own, or if it has none the maximum over the first columns."""
        old = self.state[M.value]
        parts = self.product(old, columns=SEED_COLUMNS)
        reference = torch.empty_like(old)
        kernels.seed_kernel[(triton.cdiv(self.rows, SETTLE_ROWS),)](
            parts, old, reference, self.rows, parts.shape[1], BLOCK_R=SETTLE_ROWS, BLOCK_T=SETTLE_PIECES
        )
        return reference

    def settle(self, parts: Tensor, reference: Tensor, again: _Again | None = None, redo: bool = False) -> None:
        """Updates the state. Where masses were written, rows whose reference did not hold go to `again` instead."""
        kernels.settle_kernel[(triton.cdiv(self.rows, SETTLE_ROWS),)](
            parts,
            self.state,
            reference,
            reference if again is None else again.reference,
            reference if again is None else again.flag,
            self.state.stride(0),
            parts.stride(0),
            self.rows,
            parts.shape[1],
            int(redo),
            slack(self.x.dtype),
            MASSES=again is not None,
            BLOCK_R=SETTLE_ROWS,
            BLOCK_T=SETTLE_PIECES,
        )
