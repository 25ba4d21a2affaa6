"""How much is worked on at once, from a budget in MiB, and what is worth keeping."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass

import torch

logger = logging.getLogger(__name__)

ALIGNMENT = 128
WIDEST_SLICE = 16384  # from here on, the pass over [rows, H] after each slice costs little
ROWS_PER_TILE = 2048
CPU_TILE_BYTES = 32 << 20  # wide enough that threads seldom wait for each other, small beside the weights
SAVED_SHARE_OF_MEMORY = 16


@dataclass(frozen=True)
class Tiling:
    """Logits exist for `rows` tokens times `width` columns of the vocabulary at a time."""

    rows: int
    width: int

    def row_ranges(self, count: int) -> list[tuple[int, int]]:
        """About equally large, as a product with few rows is slow."""
        rows = _even(self.rows, count)
        return [(start, min(start + rows, count)) for start in range(0, count, rows)]

    def slices(self, vocab: int) -> list[tuple[int, int]]:
        return [(start, min(start + self.width, vocab)) for start in range(0, vocab, self.width)]


def forward_tiling(vocab: int, hidden_size: int, element_size: int, workspace_mb: int) -> Tiling:
    """Tiles of the forward pass: few rows before narrow slices, as each slice costs one pass over [rows, H].

    A row needs 4 + element_size bytes per column (logits and masses) and 8 + element_size per hidden feature
    (accumulator, partial product, gathered states).
    """
    budget = workspace_mb << 20
    per_row = hidden_size * (8 + element_size)
    rows = ROWS_PER_TILE
    while rows > ALIGNMENT and rows * per_row > budget // 2:
        rows //= 2
    width = (budget - rows * per_row) // (rows * (4 + element_size))
    return Tiling(rows, _even_width(width, vocab))


def backward_tiling(count: int, vocab: int, hidden_size: int, element_size: int, workspace_mb: int) -> Tiling:
    """Tiles of the head's gradient: all rows at once, so that each slice of the gradient is written once.

    Where the copy of the hidden states, [K, H] beside the budget's slices, already exceeds the budget, slices are as
    narrow as pays: 8 · ALIGNMENT columns.
    """
    budget = (workspace_mb << 20) - count * hidden_size * element_size
    per_column = count * (4 + element_size) + 4 * hidden_size
    return Tiling(count, _even_width(budget // per_column, vocab, least=8 * ALIGNMENT))


def cpu_tiling(rows: int, vocab: int, element_size: int, workspace_mb: int) -> Tiling:
    """Slices of the vocabulary for so many rows at a time: within a fixed size and the budget."""
    columns = min(CPU_TILE_BYTES, workspace_mb << 20) // (max(rows, 1) * element_size)
    return Tiling(rows, _even_width(columns, vocab))


def padded_vocab(vocab: int) -> int:
    """Columns of saved masses on a GPU, where aligned rows make fast products."""
    return _aligned(vocab)


def _even_width(width: int, vocab: int, least: int = ALIGNMENT) -> int:
    return _even(max(least, min(width, WIDEST_SLICE) // ALIGNMENT * ALIGNMENT), vocab)


def _even(size: int, total: int) -> int:
    """The smallest aligned part size that needs no more parts of the total than `size` does."""
    parts = -(-total // size)
    return min(size, _aligned(-(-total // parts)))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def saves_masses(count: int, vocab: int, element_size: int, device: torch.device) -> bool:
    """True where count · vocab elements take at most 1/16 of the device's memory.

    All of its memory, not what is free at the moment: the choice changes the last bits of the gradient,
    so it must not differ between two runs on the same machine.
    """
    fits = count * vocab * element_size <= _room(device)
    if torch.compiler.is_compiling():  # a length on the other side compiles again; one not known by then does not fit
        from torch.fx.experimental.symbolic_shapes import guard_or_false  # half a second to import

        fits = guard_or_false(fits)
    _log_choice(fits, device)
    return fits


@torch.compiler.assume_constant_result
def _room(device: torch.device) -> int:
    return _memory(device) // SAVED_SHARE_OF_MEMORY


@functools.cache
def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@torch.compiler.assume_constant_result
def _log_choice(fits: bool, device: torch.device) -> None:
    """Once per choice and device, also of a compiled call, which says so while it is compiled."""
    _log_once(fits, device)


@functools.cache
def _log_once(fits: bool, device: torch.device) -> None:
    share = f"1/{SAVED_SHARE_OF_MEMORY} of the memory of {device}"
    if fits:
        logger.info("linear_token_logps keeps the exponentials for the head's gradient: they fit in %s.", share)
    else:
        logger.info("linear_token_logps recomputes the exponentials for the head's gradient: they exceed %s.", share)
