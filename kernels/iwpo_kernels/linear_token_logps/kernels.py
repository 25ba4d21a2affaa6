"""Row kernels of the streamed operator. The products between them are cuBLAS's (hipBLAS's).

A tile is R tokens; a slice is some columns of the vocabulary. `state` is float32 [9, R], planes as named below.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from iwpo_kernels import constants
from iwpo_kernels.tile import TINY, sigmoid, softplus, tanh

# Planes of the state of a row: sums leave the label's column out.
M = tl.constexpr(0)  # reference of the exponentials
TOP = tl.constexpr(1)  # largest z
LABEL_Z = tl.constexpr(2)
LABEL_SLOPE = tl.constexpr(3)  # f' at the label
FACTOR = tl.constexpr(4)  # by which the newest slice multiplies earlier masses
MASS = tl.constexpr(5)  # Σ exp(z − m)
MASS_Z = tl.constexpr(6)  # Σ exp(z − m) (z − m)
MASS2 = tl.constexpr(7)  # Σ exp(z − m)²
TOTAL_Z = tl.constexpr(8)  # Σ z, label included
PLANES = 9

LOWEST = tl.constexpr(constants.LOWEST)

SLICE_BLOCK, SLICE_WARPS = 2048, 8
RECOMPUTE_BLOCK, RECOMPUTE_WARPS = 4096, 8
FEATURE_BLOCK = 1024
SUM_BLOCK = 512
SUM_MEMBERS = 8  # rows in flight at once, because a frequent label has many
REGISTERS = 128


def slack(dtype: torch.dtype) -> float:
    """How far, in nats, logits may exceed their reference: its exponential times f' must fit the masses' dtype."""
    return 8.0 if dtype == torch.float16 else constants.SLACK


@triton.jit
def load_state(state_ptr, stride, row, plane):
    return tl.load(state_ptr + plane * stride + row)


@triton.jit
def store_state(state_ptr, stride, row, plane, value):
    tl.store(state_ptr + plane * stride + row, value)


@triton.jit
def label_column(label_ptr, start, columns):
    """Where in the slice the label is, or −1; in 32 bits, because whole blocks are compared with it."""
    label = tl.load(label_ptr) - start
    return tl.where((label >= 0) & (label < columns), label, -1).to(tl.int32)


@triton.jit
def capped_logits(z_ptr, columns, mask, slope, ceiling, SOFTCAP: tl.constexpr):
    """z = c · tanh(slope · a / c) of raw logits a, and f' = dz / d(slope · a)."""
    z = tl.load(z_ptr + columns, mask=mask, other=0.0) * slope
    derivative = 1.0
    if SOFTCAP:
        t = tanh(z / ceiling)
        z = ceiling * t
        derivative = 1.0 - t * t
    return z, derivative


@triton.jit(
    do_not_specialize=["state_stride", "start", "earlier_columns"], do_not_specialize_on_alignment=["label_ptr"]
)
def slice_kernel(
    z_ptr,
    mass_ptr,
    label_ptr,
    state_ptr,
    z_stride: tl.int32,
    mass_stride: tl.int32,
    state_stride,
    start,
    columns: tl.int32,
    earlier_columns,
    slope,
    ceiling,
    slack,
    SOFTCAP: tl.constexpr,
    MASSES: tl.constexpr,
    STATS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of one slice: z [columns] is read once, f' · exp(z − m) is written once.

    The reference m of earlier slices is taken on trust. Where a logit exceeds it by more than `slack`, the row is
    done again with m at its maximum, and the `earlier_columns` before `mass_ptr`, saved masses, are rescaled.
    """
    row = tl.program_id(0).to(tl.int64)
    z_ptr += row * z_stride
    mass_ptr += row * mass_stride
    label = label_column(label_ptr + row, start, columns)
    offsets = tl.arange(0, BLOCK)
    # Loaded before the row, whose own loads wait for neither: no branch depends on them.
    old = load_state(state_ptr, state_stride, row, M)
    earlier_mass = load_state(state_ptr, state_stride, row, MASS)
    m = old
    if start == 0:  # nothing to trust yet: begin with the maximum of the first block
        mask = (offsets < columns) & (offsets != label)
        z, _ = capped_logits(z_ptr, offsets, mask, slope, ceiling, SOFTCAP)
        m = tl.max(tl.where(mask, z, -float("inf")), axis=0)

    mass = 0.0
    top = -float("inf")
    mass_z = 0.0
    mass2 = 0.0
    total = 0.0
    trying = True
    while trying:
        reference = tl.where(m == -float("inf"), 0.0, m)
        b_mass = tl.zeros([BLOCK], dtype=tl.float32)
        b_top = tl.full([BLOCK], -float("inf"), dtype=tl.float32)
        b_mass_z = tl.zeros([BLOCK], dtype=tl.float32)
        b_mass2 = tl.zeros([BLOCK], dtype=tl.float32)
        b_total = tl.zeros([BLOCK], dtype=tl.float32)
        for first in range(0, columns, BLOCK):
            at = first + offsets
            mask = at < columns
            z, derivative = capped_logits(z_ptr, at, mask, slope, ceiling, SOFTCAP)
            counted = mask & (at != label)
            if STATS:
                b_total += tl.where(counted, z, 0.0)
            z = tl.where(counted, z, -float("inf"))
            b_top = tl.maximum(b_top, z)
            e = tl.exp(z - reference)
            b_mass += e
            if STATS:
                b_mass_z += e * tl.maximum(z - reference, LOWEST)
                b_mass2 += e * e
            if MASSES:
                e *= derivative
                e = tl.where(e == e, e, 0.0)  # the row's sum shows that it is not a number
                tl.store(mass_ptr + at, e.to(mass_ptr.dtype.element_ty), mask=mask)
        mass = tl.sum(b_mass, axis=0)
        top = tl.max(b_top, axis=0)
        if STATS:
            mass_z = tl.sum(b_mass_z, axis=0)
            mass2 = tl.sum(b_mass2, axis=0)
            total = tl.sum(b_total, axis=0)
        trying = top > m + slack
        m = tl.where(trying, top, m)

    shift = tl.where(old == -float("inf"), 0.0, old - m)
    factor = tl.exp(shift)
    tl.debug_barrier()  # a warp that lags must not see the new m as the old one
    store_state(state_ptr, state_stride, row, M, m)
    store_state(state_ptr, state_stride, row, MASS, earlier_mass * factor + mass)
    store_state(state_ptr, state_stride, row, FACTOR, factor)
    if label >= 0:
        z, derivative = capped_logits(z_ptr, label, True, slope, ceiling, SOFTCAP)
        store_state(state_ptr, state_stride, row, LABEL_Z, z)
        store_state(state_ptr, state_stride, row, LABEL_SLOPE, derivative)
        total += z
    if MASSES:
        unchanged = (factor == 1.0) | (factor != factor)
        for first in range(0, tl.where(unchanged, 0, earlier_columns), BLOCK):
            pointers = mass_ptr - earlier_columns + first + offsets
            mask = first + offsets < earlier_columns
            before = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
            tl.store(pointers, (before * factor).to(mass_ptr.dtype.element_ty), mask=mask)
    if STATS:
        earlier_mass_z = load_state(state_ptr, state_stride, row, MASS_Z) + earlier_mass * shift
        earlier_mass2 = load_state(state_ptr, state_stride, row, MASS2)
        earlier_total = load_state(state_ptr, state_stride, row, TOTAL_Z)
        earlier_top = load_state(state_ptr, state_stride, row, TOP)
        store_state(state_ptr, state_stride, row, MASS_Z, factor * earlier_mass_z + mass_z)
        store_state(state_ptr, state_stride, row, MASS2, factor * factor * earlier_mass2 + mass2)
        store_state(state_ptr, state_stride, row, TOTAL_Z, earlier_total + total)
        store_state(state_ptr, state_stride, row, TOP, tl.maximum(earlier_top, top))


@triton.jit(do_not_specialize_on_alignment=["factor_ptr"])
def rescale_kernel(sum_ptr, factor_ptr, features: tl.int32, BLOCK: tl.constexpr):
    """One row of float32 [R, features] times its factor. Few have one other than 1; the rest are not read."""
    row = tl.program_id(0).to(tl.int64)
    factor = tl.load(factor_ptr + row)
    if factor == 1.0:
        return
    for first in range(0, features, BLOCK):
        offsets = first + tl.arange(0, BLOCK)
        mask = offsets < features
        pointers = sum_ptr + row * features + offsets
        tl.store(pointers, tl.load(pointers, mask=mask, other=0.0) * factor, mask=mask)


@triton.jit(
    do_not_specialize=["state_stride", "tokens", "tile_start", "has_position", "vocab"],
    do_not_specialize_on_alignment=["label_ptr", "position_ptr"],
)
def finish_kernel(
    state_ptr,
    acc_ptr,
    weight_ptr,
    label_ptr,
    position_ptr,
    logps_ptr,
    statistics_ptr,
    jacobian_ptr,
    saved_ptr,
    state_stride,
    tokens,
    tile_start,
    has_position,
    weight_stride: tl.int64,
    vocab,
    features: tl.int32,
    slope,
    JACOBIAN: tl.constexpr,
    STATS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Results of one row, at its place among the N tokens, and what the head's gradient needs, among the K kept.

    With d the log-odds against the label, log p = −softplus(d) and 1 − p = σ(d).
    """
    row = tl.program_id(0).to(tl.int64)
    kept = tile_start + row
    position = kept
    if has_position != 0:
        position = tl.load(position_ptr + kept)
    label = tl.load(label_ptr + row)
    m = load_state(state_ptr, state_stride, row, M)
    m = tl.where(m == -float("inf"), 0.0, m)
    mass = load_state(state_ptr, state_stride, row, MASS)
    mass = tl.where(mass < TINY, TINY, mass)  # a label of probability 1 leaves no mass; NaN stays NaN
    label_z = load_state(state_ptr, state_stride, row, LABEL_Z)
    d = m + tl.log(mass) - label_z
    miss = sigmoid(d)
    a = slope * miss / mass
    b = slope * miss * load_state(state_ptr, state_stride, row, LABEL_SLOPE)
    tl.store(logps_ptr + position, -softplus(d))
    tl.store(saved_ptr + kept, m)
    tl.store(saved_ptr + tokens + kept, a)
    tl.store(saved_ptr + 2 * tokens + kept, b)
    if STATS:
        p = sigmoid(-d)
        others = tl.log(mass) - load_state(state_ptr, state_stride, row, MASS_Z) / mass
        entropy = miss * (others + softplus(-d)) + p * softplus(d)
        sum_p2 = p * p + miss * miss * (load_state(state_ptr, state_stride, row, MASS2) / (mass * mass))
        is_top = (label_z >= load_state(state_ptr, state_stride, row, TOP)).to(tl.float32)
        mean = load_state(state_ptr, state_stride, row, TOTAL_Z) / vocab
        tl.store(statistics_ptr + position, entropy)
        tl.store(statistics_ptr + tokens + position, sum_p2)
        tl.store(statistics_ptr + 2 * tokens + position, is_top)
        tl.store(statistics_ptr + 3 * tokens + position, mean)
    if JACOBIAN:
        in_vocab = (label >= 0) & (label < vocab)
        for first in range(0, features, BLOCK):
            offsets = first + tl.arange(0, BLOCK)
            mask = offsets < features
            acc = tl.load(acc_ptr + row * features + offsets, mask=mask, other=0.0)
            weight = tl.load(weight_ptr + label * weight_stride + offsets, mask=mask & in_vocab, other=0.0)
            tl.store(jacobian_ptr + position * features + offsets, b * weight.to(tl.float32) - a * acc, mask=mask)


@triton.jit(do_not_specialize=["start"], do_not_specialize_on_alignment=["label_ptr"])
def recompute_kernel(
    z_ptr,
    pull_ptr,
    label_ptr,
    m_ptr,
    coefficient_ptr,
    z_stride: tl.int32,
    pull_stride: tl.int32,
    start,
    columns: tl.int32,
    slope,
    ceiling,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """coefficient · f' · exp(z − m) of one block of a row, with the m of the whole row; 0 at the label.

    All 0 where the coefficient is, also where z is not a number.
    """
    blocks = tl.cdiv(columns, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    offsets = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < columns
    z, derivative = capped_logits(z_ptr + row * z_stride, offsets, mask, slope, ceiling, SOFTCAP)
    is_label = offsets == label_column(label_ptr + row, start, columns)
    coefficient = tl.load(coefficient_ptr + row)
    pull = coefficient * (tl.exp(z - tl.load(m_ptr + row)) * derivative)
    pull = tl.where(coefficient == 0.0, 0.0, tl.where(is_label, 0.0, pull))
    tl.store(pull_ptr + row * pull_stride + offsets, pull.to(pull_ptr.dtype.element_ty), mask=mask)


@triton.jit
def weighted_sum(source_ptr, stride, row, coefficient, columns, mask):
    """Σ coefficient · source[row, columns], float32; a row whose coefficient is 0 is not read."""
    pointers = source_ptr + row[:, None] * stride + columns[None, :]
    source = tl.load(pointers, mask=(coefficient != 0.0)[:, None] & mask[None, :], other=0.0)
    return tl.sum(coefficient[:, None] * source.to(tl.float32), axis=0)


@triton.jit(do_not_specialize_on_alignment=["member_ptr", "bounds_ptr", "coefficient_ptr"])
def gather_sum_kernel(
    out_ptr,
    source_ptr,
    coefficient_ptr,
    member_ptr,
    bounds_ptr,
    source_stride: tl.int64,
    features: tl.int32,
    MEMBERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out_g ← Σ coefficient_i · source_i over the members i of group g, in their order.

    Group g has members member[bounds[g] : bounds[g + 1]]; the source of one whose coefficient is 0 is not read.
    One program per block of an output row, so that no two add to the same place: sums repeat bitwise.
    """
    blocks = tl.cdiv(features, BLOCK)
    group = (tl.program_id(0) // blocks).to(tl.int64)
    offsets = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < features
    total = tl.zeros([BLOCK], dtype=tl.float32)
    end = tl.load(bounds_ptr + group + 1)
    for first in range(tl.load(bounds_ptr + group), end, MEMBERS):
        i = first + tl.arange(0, MEMBERS)
        member = tl.load(member_ptr + i, mask=i < end, other=0)
        coefficient = tl.load(coefficient_ptr + member, mask=i < end, other=0.0)
        total += weighted_sum(source_ptr, source_stride, member, coefficient, offsets, mask)
    tl.store(out_ptr + group * features + offsets, total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(
    do_not_specialize=["count", "groups"],
    do_not_specialize_on_alignment=["index_ptr", "member_ptr", "row_ptr", "coefficient_ptr"],
)
def push_kernel(
    out_ptr,
    source_ptr,
    coefficient_ptr,
    index_ptr,
    member_ptr,
    row_ptr,
    source_stride: tl.int64,
    count,
    groups,
    features: tl.int32,
    ROWS: tl.constexpr,
    MEMBERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out_g ← out_g + Σ coefficient_i · source[row_i] over the members i of group g, in their order.

    The index [count] is sorted, so that members of a group stand side by side, and the program of the first adds them
    all: sums repeat bitwise.
    """
    blocks = tl.cdiv(features, BLOCK)
    first = (tl.program_id(0) // blocks).to(tl.int64)
    group = tl.load(index_ptr + first)
    before = tl.load(index_ptr + first - 1, mask=first > 0, other=-1)
    if (group == before) | (group < 0) | (group >= groups):
        return
    offsets = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < features
    pointers = out_ptr + group * features + offsets
    total = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    more = True
    while more:
        i = first + tl.arange(0, MEMBERS)
        mine = tl.load(index_ptr + i, mask=i < count, other=-1) == group
        member = tl.load(member_ptr + i, mask=mine, other=0)
        coefficient = tl.load(coefficient_ptr + member, mask=mine, other=0.0)
        row = member
        if ROWS:
            row = tl.load(row_ptr + member, mask=mine, other=0)
        total += weighted_sum(source_ptr, source_stride, row, coefficient, offsets, mask)
        first += MEMBERS
        more = tl.sum(mine.to(tl.int32), axis=0) == MEMBERS
    tl.store(pointers, total.to(out_ptr.dtype.element_ty), mask=mask)
