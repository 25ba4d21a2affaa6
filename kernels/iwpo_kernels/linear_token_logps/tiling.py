"""How much is worked on at once, from a budget in MiB."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Literal

import torch

from iwpo_kernels.linear_token_logps.tuned import Tuned

ALIGNMENT = 128
MOST_ROWS = 8192
FEWEST_ROWS = 1024  # a product of so many reads the head at a third of memory's rate, which is assumed to be hidden
WIDEST_SLICE = 1 << 17
NARROWEST_GRADIENT = 8  # of ALIGNMENT: a narrower product that makes rows of the head's gradient waits for memory
PARTS_TRIED = 8
CPU_ROWS = 2048
CPU_TILE_BYTES = 32 << 20  # wide enough that threads seldom wait for each other, small beside the weights

# What a pass costs, in the time that a multiprocessor takes for one step along the inner dimension of a large tile of a
# product: 11.5 ns on an H100. Only proportions matter, and those are much the same on its relatives.
PRODUCT_TILES = {(128, 256): 1.0, (256, 128): 1.0, (128, 192): 0.98, (192, 128): 0.98, (128, 128): 0.96}  # and rates
LARGE_TILE = 128 * 256
GAP = 170  # from one kernel to the next: 2 µs
KERNELS_A_TILE = 5  # beside those of its slices
BYTES_A_STEP = 35_000  # to or from memory
MULTIPROCESSORS = 132  # where there is no GPU to ask


@dataclass(frozen=True)
class Tiling:
    """Logits exist for `rows` tokens times `width` columns of the vocabulary at a time."""

    rows: int
    width: int

    def row_ranges(self, count: int) -> list[tuple[int, int]]:
        """About equally large, because a product with few rows is slow."""
        rows = _even(count, _parts(count, self.rows), self.rows)
        return [(start, min(start + rows, count)) for start in range(0, count, rows)]

    def slices(self, vocab: int) -> list[tuple[int, int]]:
        return [(start, min(start + self.width, vocab)) for start in range(0, vocab, self.width)]


@dataclass(frozen=True)
class Work:
    """One pass over `count` rows and the whole vocabulary, and what it needs in the workspace.

    Attributes:
        per_logit, per_row, per_column: bytes for each logit, row and column of a tile.
        second: the product that the logits of a slice enter next: "hidden", the sums for the gradient of hidden states;
            "head", rows of the head's gradient, which needs all rows in one tile; or None where there is none.
    """

    count: int
    vocab: int
    features: int
    per_logit: float
    per_row: int = 0
    per_column: int = 0
    second: Literal["hidden", "head"] | None = None

    def bytes(self, tile: Tiling) -> int:
        return ceil(tile.rows * (tile.width * self.per_logit + self.per_row) + tile.width * self.per_column)

    def widest(self, rows: int, budget: int) -> int:
        """Columns that fit beside so many rows; not positive where none do."""
        return floor((budget - rows * self.per_row) / (rows * self.per_logit + self.per_column))

    def steps(self, tile: Tiling, processors: int) -> float:
        """Time of what depends on the tiling: whole waves of tiles of products, gaps, and sums read and written."""
        steps = self.features * _waves(tile.rows, tile.width, processors) + 2 * GAP
        if self.second == "hidden":
            steps += tile.width * _waves(tile.rows, self.features, processors) + 2 * GAP
            steps += 8 / 3 * tile.rows * self.features / BYTES_A_STEP  # a third of this traffic is not hidden
        elif self.second == "head":
            steps += tile.rows * _waves(tile.width, self.features, processors) + GAP
        steps = steps * _parts(self.vocab, tile.width) + KERNELS_A_TILE * GAP
        return steps * _parts(self.count, tile.rows)


def gpu_tiling(work: Work, workspace_mb: int, device: torch.device, measured: Tuned) -> Tiling:
    """The tiles that were measured to be fastest, else those that should be."""
    return tiling_on(processors(device), work, workspace_mb, measured)


def tiling_on(processors: int, work: Work, workspace_mb: int, measured: Tuned) -> Tiling:
    """As `gpu_tiling`, for a GPU with so many multiprocessors that need not be here."""
    # Lengths differ from step to step, and the best tiles of nearly equal ones do not.
    work = replace(work, count=_aligned(work.count))
    budget = workspace_mb << 20
    if measured.width is not None and work.count >= (measured.rows or 0):
        rows = work.count if work.second == "head" else min(measured.rows or MOST_ROWS, work.count)
        tile = Tiling(_even(work.count, _parts(work.count, rows), rows), _evened(measured.width, work.vocab))
        if work.bytes(tile) <= budget:
            return tile
    return _fastest(work, budget, processors)


def ranked(processors: int, work: Work, workspace_mb: int) -> list[Tiling]:
    """All tiles that are considered, those that should be fastest first."""
    work = replace(work, count=_aligned(work.count))
    return sorted(_candidates(work, workspace_mb << 20), key=lambda tile: work.steps(tile, processors))


def cpu_tiling(rows: int, vocab: int, element_size: int, workspace_mb: int) -> Tiling:
    """Slices of the vocabulary for so many rows at a time: within a fixed size and the budget."""
    columns = min(CPU_TILE_BYTES, workspace_mb << 20) // (max(rows, 1) * element_size)
    return Tiling(rows, _evened(columns, vocab))


def padded_vocab(vocab: int) -> int:
    """Columns of saved masses on a GPU, where aligned rows make fast products."""
    return _aligned(vocab)


@functools.cache
def processors(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return MULTIPROCESSORS


@functools.lru_cache(maxsize=4096)
def _fastest(work: Work, budget: int, processors: int) -> Tiling:
    return min(_candidates(work, budget), key=lambda tile: work.steps(tile, processors))


def _candidates(work: Work, budget: int) -> Iterator[Tiling]:
    """Even parts of the rows and of the vocabulary that fit; at least one, the smallest, whether it fits or not."""
    if work.second == "head":
        yield from _even_slices(work, work.count, max(work.widest(work.count, budget), NARROWEST_GRADIENT * ALIGNMENT))
        return
    fewest = _parts(work.count, MOST_ROWS)
    one_fits = False
    for parts in range(fewest, fewest + PARTS_TRIED):
        rows = _even(work.count, parts, MOST_ROWS)
        if rows >= min(FEWEST_ROWS, work.count, MOST_ROWS) and work.widest(rows, budget) >= ALIGNMENT:
            one_fits = True
            yield from _even_slices(work, rows, work.widest(rows, budget))
    if not one_fits:
        rows = _even(work.count, fewest, MOST_ROWS)
        while rows > ALIGNMENT and work.widest(rows, budget) < ALIGNMENT:
            rows = _even(rows, 2, rows)
        yield from _even_slices(work, rows, max(work.widest(rows, budget), ALIGNMENT))


def _even_slices(work: Work, rows: int, width: int) -> Iterator[Tiling]:
    width = min(width, WIDEST_SLICE) // ALIGNMENT * ALIGNMENT
    fewest = _parts(work.vocab, width)
    return (Tiling(rows, _even(work.vocab, parts, width)) for parts in range(fewest, fewest + PARTS_TRIED))


def _evened(width: int, vocab: int) -> int:
    """The smallest aligned width that needs no more slices than `width` does."""
    width = max(ALIGNMENT, width // ALIGNMENT * ALIGNMENT)
    return _even(vocab, _parts(vocab, width), width)


def _waves(rows: int, columns: int, processors: int) -> float:
    """How often all multiprocessors compute a large tile for a product [rows, columns], with the best tile size.

    The last, unfilled wave counts as a whole one.
    """
    return min(
        _parts(_parts(rows, high) * _parts(columns, wide), processors) * high * wide / (LARGE_TILE * rate)
        for (high, wide), rate in PRODUCT_TILES.items()
    )


def _even(total: int, parts: int, most: int) -> int:
    """An aligned size of so many parts of the total, but at most `most`."""
    return min(most, _aligned(_parts(total, parts)))


def _parts(total: int, size: int) -> int:
    return -(-total // size)


def _aligned(size: int) -> int:
    return _parts(size, ALIGNMENT) * ALIGNMENT
