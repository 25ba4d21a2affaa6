"""The streamed operator on a GPU: cuBLAS products of slices, and the row kernels between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from iwpo_kernels.launch import launch_options
from iwpo_kernels.linear_token_logps import kernels
from iwpo_kernels.linear_token_logps.epilogue import architecture, pays, serves, stream_slice
from iwpo_kernels.linear_token_logps.gpu_head_gradient import head_gradient
from iwpo_kernels.linear_token_logps.index_sums import sum_by_index
from iwpo_kernels.linear_token_logps.tiling import Tiling, Work, gpu_tiling
from iwpo_kernels.linear_token_logps.tuned import Mode, Tuned, tuned
from iwpo_kernels.linear_token_logps.types import Forward, Head, Rows, raw_logits
from iwpo_kernels.wide_products import addmm_fp32, mm_fp32

__all__ = ["forward", "head_gradient", "hidden_gradient"]


@dataclass(frozen=True)
class Tile:
    """Some rows of a call, and what its slices of the vocabulary fill one after the other.

    Attributes:
        start, end: which of the K kept tokens the R rows are.
        x: [R, H] hidden states.
        labels: int64 [R].
        state: float32 [9, R], see `kernels`.
        logits: float32 [R, width], or None where the product's epilogue makes exponentials of them.
        masses: [R, width] of one slice, [R, columns] of all of them where they are saved, or None.
        sums: float32 [R, H], Σ_v f'_v exp(z_v − m) W_v so far, or None.
    """

    start: int
    end: int
    x: Tensor
    labels: Tensor
    state: Tensor
    logits: Tensor | None
    masses: Tensor | None
    sums: Tensor | None


def forward(rows: Rows, head: Head, out: Forward, workspace_mb: int) -> None:
    """Fills `out` for the kept tokens; the others keep the zeros they have."""
    head = head.for_products(rows.hidden.dtype)
    vocab, features = head.weight.shape
    settings = tuned(rows.hidden.device, features, out.mode)
    epilogue = _takes_epilogue(settings, rows, head, out)
    in_order, size = rows.position is None, rows.hidden.element_size()
    work = forward_work(rows.count, vocab, features, size, out.mode, in_order, epilogue)
    tiling = gpu_tiling(work, workspace_mb, rows.hidden.device, settings)
    for tile in _tiles(rows, out, tiling, features, epilogue):
        for first, last in tiling.slices(vocab):
            _stream(tile, head, out, first, last, settings)
        _finish(tile, rows, head, out)


def _takes_epilogue(settings: Tuned, rows: Rows, head: Head, out: Forward) -> bool:
    """Where it was measured to be faster, which was for 16-bit products alone."""
    hidden, wanted = rows.hidden, settings.epilogue
    if wanted is None:
        wanted = pays(architecture(hidden.device), hidden.shape[1], out.mode)
    served = serves(hidden, head.weight, head.bias, out.makes_statistics, out.saves_masses)
    return wanted and served and hidden.element_size() == 2


def forward_work(
    count: int, vocab: int, features: int, element_size: int, mode: Mode, in_order: bool, epilogue: bool = False
) -> Work:
    """What the forward pass keeps in the workspace: logits, masses that are not saved, hidden states, sums.

    With an epilogue no logit is kept, but two float32 of each piece of a tile, which has at least 64 columns.
    """
    jacobian = mode != "no gradient"
    return Work(
        count=count,
        vocab=vocab,
        features=features,
        per_logit=(1 / 8 if epilogue else 4) + (element_size if mode == "frozen" else 0),
        per_row=features * (element_size + (4 if jacobian and not in_order else 0)),
        second="hidden" if jacobian else None,
    )


def _tiles(rows: Rows, out: Forward, tiling: Tiling, features: int, epilogue: bool) -> Iterator[Tile]:
    """To be used one at a time, because they share memory."""
    device, ranges = rows.hidden.device, tiling.row_ranges(rows.count)
    most = ranges[0][1]
    logits = None if epilogue else torch.empty(most, tiling.width, device=device)
    masses = rows.hidden.new_empty(most, tiling.width) if out.mode == "frozen" else None
    in_order = rows.position is None  # then sums grow where the result is to be
    sums = torch.empty(most, features, device=device) if out.makes_jacobian and not in_order else None
    for start, end in ranges:
        place, count = slice(start, end), end - start
        tile_masses = None if masses is None else masses[:count]
        tile_sums = None if sums is None else sums[:count]
        yield Tile(
            start=start,
            end=end,
            x=rows.gather(start, end),
            labels=rows.labels[place],
            state=_initial_state(count, device),
            logits=None if logits is None else logits[:count],
            masses=out.masses[place] if out.saves_masses else tile_masses,
            sums=out.jacobian[place] if out.makes_jacobian and in_order else tile_sums,
        )


def _initial_state(rows: int, device: torch.device) -> Tensor:
    """No mass yet. A label that no slice holds stays NaN."""
    state = torch.zeros(kernels.PLANES, rows, device=device)
    state[kernels.M.value : kernels.TOP.value + 1] = -torch.inf
    state[kernels.LABEL_Z.value] = torch.nan
    return state


def _stream(tile: Tile, head: Head, out: Forward, first: int, last: int, settings: Tuned) -> None:
    """One slice: its logits, its share of the state, its masses, and their product with the weight."""
    part = head.part(first, last, tile.x.dtype)
    masses = tile.masses
    if masses is not None:
        masses = masses[:, first:last] if out.saves_masses else masses[:, : last - first]
    if tile.logits is None:
        stream_slice(tile.x, part.weight, tile.labels, tile.state, first, masses, head)
    else:
        z = raw_logits(tile.x, part, tile.logits)
        _exponentials(tile, z, masses, head, out, first, settings)
    if tile.sums is None:
        return
    assert masses is not None
    if first == 0:
        mm_fp32(masses, part.weight, out=tile.sums)
        return
    factor = tile.state[kernels.FACTOR.value]
    kernels.rescale_kernel[(factor.shape[0],)](tile.sums, factor, tile.sums.shape[1], BLOCK=kernels.FEATURE_BLOCK)
    addmm_fp32(tile.sums, masses, part.weight)


def _exponentials(
    tile: Tile, z: Tensor, masses: Tensor | None, head: Head, out: Forward, first: int, settings: Tuned
) -> None:
    kernels.slice_kernel[(z.shape[0],)](
        z,
        z if masses is None else masses,
        tile.labels,
        tile.state,
        z.stride(0),
        0 if masses is None else masses.stride(0),
        tile.state.stride(0),
        first,
        z.shape[1],
        first if out.saves_masses else 0,
        head.slope,
        head.ceiling or 0.0,
        kernels.slack(tile.x.dtype),
        SOFTCAP=head.ceiling is not None,
        MASSES=masses is not None,
        STATS=out.makes_statistics,
        BLOCK=settings.slice_block or kernels.SLICE_BLOCK,
        **launch_options(settings.row_warps or kernels.SLICE_WARPS, kernels.REGISTERS),
    )


def _finish(tile: Tile, rows: Rows, head: Head, out: Forward) -> None:
    vocab, features = head.weight.shape
    kernels.finish_kernel[(tile.end - tile.start,)](
        tile.state,
        tile.state if tile.sums is None else tile.sums,
        tile.state if tile.sums is None else head.weight,
        tile.labels,
        rows.labels if rows.position is None else rows.position,
        out.logps,
        out.statistics,
        out.jacobian,
        out.state,
        tile.state.stride(0),
        out.logps.shape[0],
        tile.start,
        int(rows.position is not None),
        head.weight.stride(0),
        vocab,
        features,
        head.slope,
        JACOBIAN=tile.sums is not None,
        STATS=out.makes_statistics,
        BLOCK=kernels.FEATURE_BLOCK,
    )


def hidden_gradient(grad: Tensor, jacobian: Tensor, hidden_index: Tensor | None, out: Tensor) -> None:
    """out [T, H] ← sum of grad_n · jacobian_n over the tokens n of each row; 0 · NaN counts as 0."""
    if hidden_index is None:
        torch.mul(jacobian, grad[:, None], out=out).masked_fill_((grad == 0)[:, None], 0)
    else:
        sum_by_index(out, jacobian, grad, hidden_index)
