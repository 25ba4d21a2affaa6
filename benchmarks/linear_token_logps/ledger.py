"""Where the time of a call goes, on paper."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.linear_token_logps.gpus import GAP, Gpu

WAVES, EXPONENTIALS, SUMS, RESULTS, HEAD = "whole waves", "exp pass", "sums", "results", "head's passes"
COLUMNS = (WAVES, EXPONENTIALS, SUMS, RESULTS, HEAD)


@dataclass
class Ledger:
    """Seconds beside the bare products, entry by entry, in the order of the kernels.

    Attributes:
        bare: seconds of the products at full rate.
        seconds: of each column.
        bytes: that kernels other than products move and nothing hides.
        sliced: launches that go by slices of the vocabulary, products included, and each waits for the one before.
        others: launches that do not.
        tiles: rows × columns of the slices, pass by pass.
    """

    gpu: Gpu
    bare: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COLUMNS, 0.0))
    bytes: float = 0.0
    sliced: int = 0
    others: int = 0
    tiles: list[str] = field(default_factory=list)

    def product(self, rows: int, columns: int, inner: int) -> None:
        bare = self.gpu.bare(rows, columns, inner)
        self.bare += bare
        self.seconds[WAVES] += self.gpu.product(rows, columns, inner) - bare
        self.sliced += 1

    def fused(self, rows: int, columns: int, inner: int, rate: float, instructions: int) -> None:
        """A product at `rate` of cuBLAS's that makes its exponentials itself, in so many instructions an element."""
        bare = self.gpu.bare(rows, columns, inner)
        self.bare += bare
        self.seconds[WAVES] += bare / rate - bare
        self.seconds[EXPONENTIALS] += self.gpu.issuing(instructions * rows * columns)
        self.sliced += 1

    def pass_of_slice(self, column: str, moved: float) -> None:
        """A pass that moves so many bytes."""
        self._move(column, moved)
        self.sliced += 1

    def passes(self, column: str, moved: float, kernels: int = 1) -> None:
        """Passes that move so many bytes in all."""
        self._move(column, moved)
        self.others += kernels

    def small(self, kernels: int) -> None:
        """Kernels that move next to nothing."""
        self.others += kernels

    def _move(self, column: str, moved: float) -> None:
        self.seconds[column] += moved / self.gpu.memory
        self.bytes += moved

    @property
    def gaps(self) -> float:
        return GAP * self.sliced

    @property
    def over_floor(self) -> float:
        """Time over that of the bare products, without the launches that do not go by slices."""
        return 1 + (sum(self.seconds.values()) + self.gaps) / self.bare

    @property
    def over_floor_with_all_launches(self) -> float:
        return self.over_floor + GAP * self.others / self.bare
