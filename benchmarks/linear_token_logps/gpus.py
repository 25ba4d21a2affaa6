"""What GPUs can do, on paper, and how long a product or a pass over memory takes there."""

from __future__ import annotations

from dataclasses import dataclass

from iwpo_kernels.linear_token_logps import tiling

# Rows and columns of the tile that a block of threads computes, and its rate beside that of the largest: the kernels
# that cuBLAS has for Hopper, of which a product takes the fastest. Smaller tiles read more for each multiply-add. The
# rates are assumed; the operator chooses its own tiles without regard to the smallest ones.
PRODUCT_TILES = tiling.PRODUCT_TILES | {(256, 64): 0.94, (64, 256): 0.94, (128, 64): 0.9, (64, 128): 0.9}
GAP = 2e-6  # seconds from the end of a kernel to the work of the next one in the stream
LANES = 128  # instructions of threads that a multiprocessor issues in one cycle
CYCLES = 1.7e9  # a second, while products run


@dataclass(frozen=True)
class Gpu:
    """Rates of one kind of GPU.

    Attributes:
        name: as `--device` takes it.
        products: FLOP/s of a large bare product in bf16, random data.
        memory: bytes/s of a pass that streams through memory.
        multiprocessors: that share the tiles of a product.
    """

    name: str
    products: float
    memory: float
    multiprocessors: int

    def bare(self, rows: int, columns: int, inner: int) -> float:
        """Seconds of a product at full rate."""
        return 2 * rows * columns * inner / self.products

    def product(self, rows: int, columns: int, inner: int) -> float:
        """Seconds of a product [rows, inner] times [inner, columns]: whole waves of its best tiles.

        No product is split along its inner dimension, and none waits for memory: an H100 has 125 multiply-adds for each
        byte that it moves, the operator's products more than 190.
        """
        rate = self.products / self.multiprocessors
        return min(
            _parts(_parts(rows, high) * _parts(columns, wide), self.multiprocessors)
            * (2 * high * wide * inner / (rate * share))
            for (high, wide), share in PRODUCT_TILES.items()
        )

    def issuing(self, instructions: float) -> float:
        """Seconds in which all multiprocessors issue so many instructions of threads."""
        return instructions / (self.multiprocessors * LANES * CYCLES)


# H200: both rates measured, 8192³ in bf16 and a copy. H100: TRL's issue 7244 has 728 TFLOP/s for the products of a head
# in its best library; memory is at the share of the data sheet's rate (3.35 TB/s) that was measured on the H200 (4.3 of
# 4.8). A100 and MI300X: assumed from their data sheets, with cuBLAS's tiles, as no others are known.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100", 750e12, 3.0e12, 132),
        Gpu("H200", 790e12, 4.3e12, 132),
        Gpu("A100", 260e12, 1.6e12, 108),
        Gpu("MI300X", 600e12, 4.0e12, 304),
    )
}


def _parts(total: int, size: int) -> int:
    return -(-total // size)
