"""Settings of one mode that are worth a try on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product, zip_longest

from benchmarks.linear_token_logps.costs import WORKSPACE_MB, Case
from iwpo_kernels.linear_token_logps.tiling import Tiling, Work, ranked, tiling_on
from iwpo_kernels.linear_token_logps.tuned import DEFAULTS, Tuned

BUDGETS_MB = (32, 128, 256, 512)  # logits of the first may stay in the cache between two kernels
TILES_A_BUDGET = 3
# Warps and block of `slice_kernel`; None leaves both as they are.
ROW_KERNELS = ((None, None), (4, 1024), (4, 2048), (16, 4096))


@dataclass(frozen=True)
class Candidate:
    """Settings, and the tile that comes of them at the size that is tuned.

    Attributes:
        mib: of the workspace that the tile needs.
        epilogue: whether the product's epilogue makes the exponentials.
    """

    settings: Tuned
    tile: Tiling
    mib: int
    epilogue: bool

    @property
    def name(self) -> str:
        tile, settings = f"{self.tile.rows} × {self.tile.width}", self.settings
        if self.epilogue:
            return f"{tile}, epilogue"
        words = {"warps": settings.row_warps, "columns a block": settings.slice_block}
        return ", ".join([tile, *(f"{number} {what}" for what, number in words.items() if number is not None)])

    @property
    def fits(self) -> bool:
        """Within the workspace that users have by default."""
        return self.mib <= WORKSPACE_MB


def candidates(case: Case, processors: int, present: Tuned = DEFAULTS, *, epilogue: bool = False) -> list[Candidate]:
    """The default first, then the tiles that should be best within several budgets, with several row kernels.

    Args:
        present: of the table so far.
        epilogue: what the operator takes where settings leave it open.
    """
    by_name: dict[str, Candidate] = {}
    for settings in (DEFAULTS, present, *_settings(processors, case)):
        has_epilogue = epilogue if settings.epilogue is None else settings.epilogue
        work = _work(case, has_epilogue)
        tile = tiling_on(processors, work, max(BUDGETS_MB), settings)
        if settings.width is None:
            tile = tiling_on(processors, work, WORKSPACE_MB, settings)
        candidate = Candidate(settings, tile, -(-replace(work, count=tile.rows).bytes(tile) >> 20), has_epilogue)
        by_name.setdefault(candidate.name, candidate)
    return list(by_name.values())


def _work(case: Case, epilogue: bool) -> Work:
    return case.gradient_work if case.mode == "recomputed" else case.forward_work(epilogue)


def _settings(processors: int, case: Case) -> Iterator[Tuned]:
    def tiles(epilogue: bool) -> list[Tiling]:
        work = _work(case, epilogue)
        return [tile for budget in BUDGETS_MB for tile in _best_tiles(ranked(processors, work, budget))]

    if case.mode == "recomputed":  # `slice_kernel` runs in the forward pass, which is tuned as that of a frozen head
        yield from (Tuned(tile.rows, tile.width) for tile in tiles(epilogue=False))
        return
    rows = [
        Tuned(tile.rows, tile.width, *kernel, epilogue=False)
        for kernel, tile in product(ROW_KERNELS, tiles(epilogue=False))
    ]
    fused = [] if case.mode == "saved" else [Tuned(t.rows, t.width, epilogue=True) for t in tiles(epilogue=True)]
    # In turn, as time may end before the list does.
    yield from (one for pair in zip_longest(fused, rows) for one in pair if one is not None)


def _best_tiles(tiles: list[Tiling]) -> list[Tiling]:
    """The best of each number of rows, as widths of one matter less, and then the best of all others."""
    of_rows: dict[int, Tiling] = {}
    for tile in tiles:
        of_rows.setdefault(tile.rows, tile)
    first = list(of_rows.values())
    return [*first, *(tile for tile in tiles if tile not in first)][:TILES_A_BUDGET]
