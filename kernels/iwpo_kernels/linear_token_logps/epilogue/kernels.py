"""A product of hidden states and head whose logits never leave the registers, and the reductions after it.

A tile of the product is BLOCK_R tokens times BLOCK_C columns of a slice, a piece all or half of its columns. What a
piece leaves of each token is one float32 in each plane of `parts` [2, pieces, R], named below.
"""

from __future__ import annotations

import triton
import triton.language as tl

from iwpo_kernels.linear_token_logps.kernels import (
    FACTOR,
    LABEL_SLOPE,
    LABEL_Z,
    MASS,
    M,
)
from iwpo_kernels.tile import tanh

TOP_PART = tl.constexpr(0)  # largest z, the label left out
SUM_PART = tl.constexpr(1)  # Σ exp(z − reference)


@triton.jit
def or_zero(m):
    """A reference that can be subtracted: where all logits are −∞, every exponential must be 0."""
    return tl.where(m == -float("inf"), 0.0, m)


@triton.jit
def tile_corner(tile, rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr):
    """First row and column of a tile. GROUP blocks of rows meet one block of columns before the next."""
    row_blocks = tl.cdiv(rows, BLOCK_R)
    per_group = GROUP * tl.cdiv(columns, BLOCK_C)
    first_block = tile // per_group * GROUP
    height = tl.minimum(row_blocks - first_block, GROUP)
    within = tile % per_group
    return (first_block + within % height) * BLOCK_R, within // height * BLOCK_C


@triton.jit
def block_product(
    x,
    weight,
    first_row,
    first_column,
    rows,
    columns,
    features,
    x_stride,
    weight_stride,
    DESCRIPTORS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """x[first_row :] · weight[first_column :]ᵀ, float32 [BLOCK_R, BLOCK_C]; past the ends it is meaningless."""
    a = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
    if DESCRIPTORS:
        for first in range(0, features, BLOCK_H):
            left = x.load([first_row, first])
            right = weight.load([first_column, first])
            a = tl.dot(left, right.T, a, input_precision="ieee")
    else:
        row = tl.minimum(first_row + tl.arange(0, BLOCK_R), rows - 1).to(tl.int64)
        column = tl.minimum(first_column + tl.arange(0, BLOCK_C), columns - 1).to(tl.int64)
        offsets = tl.arange(0, BLOCK_H)
        x_ptr = x + row[:, None] * x_stride + offsets[None, :]
        weight_ptr = weight + column[None, :] * weight_stride + offsets[:, None]
        for first in range(0, features, BLOCK_H):
            left = tl.load(x_ptr + first, mask=offsets[None, :] < features - first, other=0.0)
            right = tl.load(weight_ptr + first, mask=offsets[:, None] < features - first, other=0.0)
            a = tl.dot(left, right, a, input_precision="ieee")
    return a


@triton.jit
def store_masses(
    masses,
    e,
    first_row,
    first_column,
    rows,
    columns,
    stride,
    DESCRIPTORS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    if DESCRIPTORS:
        masses.store([first_row, first_column], e.to(masses.dtype))
    else:
        row = first_row + tl.arange(0, BLOCK_R)
        column = first_column + tl.arange(0, BLOCK_C)
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        pointers = masses + row.to(tl.int64)[:, None] * stride + column[None, :]
        tl.store(pointers, e.to(masses.dtype.element_ty), mask=mask)


@triton.jit
def cap_slope(z, inverse_ceiling, SOFTCAP: tl.constexpr):
    """f' = dz / d(slope · a) where f gave z."""
    derivative = 1.0
    if SOFTCAP:
        t = z * inverse_ceiling
        derivative = 1.0 - t * t
    return derivative


@triton.jit
def split(a, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, PIECES: tl.constexpr):
    """One or two pieces, side by side; each thread keeps the elements that it has."""
    tl.static_assert(PIECES <= 2)
    if PIECES == 1:
        pieces = (a,)
    else:
        pieces = tl.split(tl.permute(tl.reshape(a, [BLOCK_R, 2, BLOCK_C // 2]), [0, 2, 1]))
    return pieces


@triton.jit
def finish_piece(
    a,
    masses,
    label_ptr,
    state_ptr,
    parts_ptr,
    reference_ptr,
    first_row,
    first_column,
    rows,
    columns,
    masses_stride,
    state_stride,
    parts_stride,
    start,
    slope,
    ceiling,
    inverse_ceiling,
    SOFTCAP: tl.constexpr,
    MASSES: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Everything that is made of raw logits a [BLOCK_R, BLOCK_C], so that they need not be kept."""
    z = a * slope
    if SOFTCAP:
        z = ceiling * tanh(z * inverse_ceiling)
    row = first_row + tl.arange(0, BLOCK_R)
    exists = row < rows
    column = first_column + tl.arange(0, BLOCK_C)
    label = tl.load(label_ptr + row, mask=exists, other=-1) - start
    is_here = (label >= first_column) & (label < first_column + BLOCK_C) & (label < columns)
    label = tl.where(is_here, label, -1).to(tl.int32)
    if first_column + BLOCK_C > columns:
        z = tl.where((column < columns)[None, :], z, -float("inf"))
    if tl.max(is_here.to(tl.int32), axis=0) != 0:
        is_label = column[None, :] == label[:, None]
        label_z = tl.sum(tl.where(is_label, z, 0.0), axis=1)
        derivative = cap_slope(label_z, inverse_ceiling, SOFTCAP)
        tl.store(state_ptr + LABEL_Z * state_stride + row, label_z, mask=is_here)
        tl.store(state_ptr + LABEL_SLOPE * state_stride + row, derivative, mask=is_here)
        z = tl.where(is_label, -float("inf"), z)
    top = tl.max(z, axis=1)
    reference = top
    if MASSES:
        reference = tl.load(reference_ptr + row, mask=exists, other=0.0)
    e = tl.exp(z - or_zero(reference)[:, None])
    part_ptr = parts_ptr + first_column // BLOCK_C * rows + row
    is_part = exists & (first_column < columns)
    tl.store(part_ptr + TOP_PART * parts_stride, top, mask=is_part)
    tl.store(part_ptr + SUM_PART * parts_stride, tl.sum(e, axis=1), mask=is_part)
    if MASSES:
        e *= cap_slope(z, inverse_ceiling, SOFTCAP)
        # NaN comes of the −∞ put there above, under a cap, or of a row that is NaN, which its sum shows.
        e = tl.where(e == e, e, 0.0)
        store_masses(masses, e, first_row, first_column, rows, columns, masses_stride, DESCRIPTORS, BLOCK_R, BLOCK_C)


@triton.jit(
    do_not_specialize=["state_stride", "parts_stride", "rows", "start", "redo"],
    do_not_specialize_on_alignment=["label_ptr", "reference_ptr", "flag_ptr"],
)
def product_kernel(
    x,
    weight,
    masses,
    label_ptr,
    state_ptr,
    parts_ptr,
    reference_ptr,
    flag_ptr,
    x_stride: tl.int64,
    weight_stride: tl.int64,
    masses_stride: tl.int64,
    state_stride,
    parts_stride,
    rows,
    columns: tl.int32,
    features: tl.int32,
    start,
    redo,
    slope,
    ceiling,
    inverse_ceiling,
    SOFTCAP: tl.constexpr,
    MASSES: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GROUP: tl.constexpr,
    PIECES: tl.constexpr,
):
    """Exponentials of the logits of one slice, and what `settle_kernel` needs of each tile; the label is left out.

    With MASSES all tiles subtract the reference [R] of a row, and f' · exp(z − reference) is written [R, columns].
    Without, each subtracts its own maximum. With `redo` only blocks of rows that hold a flag [R] are worked on.
    """
    first_row, first_column = tile_corner(tl.program_id(0), rows, columns, BLOCK_R, BLOCK_C, GROUP)
    wanted = 1.0
    if redo != 0:
        row = first_row + tl.arange(0, BLOCK_R)
        wanted = tl.max(tl.load(flag_ptr + row, mask=row < rows, other=0.0), axis=0)
    if wanted != 0.0:
        a = block_product(
            x,
            weight,
            first_row,
            first_column,
            rows,
            columns,
            features,
            x_stride,
            weight_stride,
            DESCRIPTORS,
            BLOCK_R,
            BLOCK_C,
            BLOCK_H,
        )
        pieces = split(a, BLOCK_R, BLOCK_C, PIECES)
        for i in tl.static_range(PIECES):
            finish_piece(
                pieces[i],
                masses,
                label_ptr,
                state_ptr,
                parts_ptr,
                reference_ptr,
                first_row,
                first_column + i * (BLOCK_C // PIECES),
                rows,
                columns,
                masses_stride,
                state_stride,
                parts_stride,
                start,
                slope,
                ceiling,
                inverse_ceiling,
                SOFTCAP,
                MASSES,
                DESCRIPTORS,
                BLOCK_R,
                BLOCK_C // PIECES,
            )


@triton.jit
def largest(top_ptr, row, rows, pieces, BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr):
    """Over all pieces of a slice, [BLOCK_R]."""
    piece = tl.arange(0, BLOCK_T)
    b_top = tl.full([BLOCK_T, BLOCK_R], -float("inf"), dtype=tl.float32)
    for first in range(0, pieces, BLOCK_T):
        mask = (first + piece < pieces)[:, None] & (row < rows)[None, :]
        at = (first + piece)[:, None] * rows + row[None, :]
        b_top = tl.maximum(b_top, tl.load(top_ptr + at, mask=mask, other=-float("inf")))
    return tl.max(b_top, axis=0)


@triton.jit(do_not_specialize=["rows", "pieces"], do_not_specialize_on_alignment=["old_ptr", "reference_ptr"])
def seed_kernel(parts_ptr, old_ptr, reference_ptr, rows, pieces, BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr):
    """reference [R] ← the old one, or where there is none the largest logit of some columns."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    old = tl.load(old_ptr + row, mask=row < rows, other=0.0)
    top = largest(parts_ptr, row, rows, pieces, BLOCK_R, BLOCK_T)
    tl.store(reference_ptr + row, tl.where(old == -float("inf"), top, old), mask=row < rows)


@triton.jit(
    do_not_specialize=["state_stride", "parts_stride", "rows", "pieces", "redo"],
    do_not_specialize_on_alignment=["reference_ptr", "flag_ptr", "next_ptr"],
)
def settle_kernel(
    parts_ptr,
    state_ptr,
    reference_ptr,
    next_ptr,
    flag_ptr,
    state_stride,
    parts_stride,
    rows,
    pieces,
    redo,
    slack,
    MASSES: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Adds what the pieces of a slice left of BLOCK_R tokens to the state.

    With MASSES a token whose logits exceed its reference [R] by more than `slack` is flagged instead, and its maximum
    becomes its next reference [R]; with `redo` only tokens that were flagged count.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists = row < rows
    top_ptr = parts_ptr + TOP_PART * parts_stride
    sum_ptr = parts_ptr + SUM_PART * parts_stride
    top = largest(top_ptr, row, rows, pieces, BLOCK_R, BLOCK_T)
    m = tl.load(reference_ptr + row, mask=exists, other=0.0)
    above = top > m + slack
    m = tl.where(above, top, m)

    piece = tl.arange(0, BLOCK_T)
    b_mass = tl.zeros([BLOCK_T, BLOCK_R], dtype=tl.float32)
    for first in range(0, pieces, BLOCK_T):
        mask = (first + piece < pieces)[:, None] & exists[None, :]
        at = (first + piece)[:, None] * rows + row[None, :]
        mass = tl.load(sum_ptr + at, mask=mask, other=0.0)
        if not MASSES:
            piece_top = tl.load(top_ptr + at, mask=mask, other=-float("inf"))
            mass *= tl.exp(piece_top - or_zero(m)[None, :])
        b_mass += mass

    settled = exists
    if MASSES:
        if redo != 0:
            settled = exists & (tl.load(flag_ptr + row, mask=exists, other=0.0) != 0.0)
        else:
            tl.store(next_ptr + row, m, mask=exists)
            tl.store(flag_ptr + row, above.to(tl.float32), mask=exists)
            settled = exists & (above == 0)
    old = tl.load(state_ptr + M * state_stride + row, mask=settled, other=0.0)
    factor = tl.exp(tl.where(old == -float("inf"), 0.0, old - m))
    earlier = tl.load(state_ptr + MASS * state_stride + row, mask=settled, other=0.0)
    tl.debug_barrier()  # a warp that lags must not see the new m as the old one
    tl.store(state_ptr + M * state_stride + row, m, mask=settled)
    tl.store(state_ptr + MASS * state_stride + row, earlier * factor + tl.sum(b_mass, axis=0), mask=settled)
    tl.store(state_ptr + FACTOR * state_stride + row, factor, mask=settled)
