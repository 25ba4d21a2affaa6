"""Kernels of `token_logps`: one read of the logits forward, one read and one write backward."""

from __future__ import annotations

import triton
import triton.language as tl

from iwpo_kernels import constants
from iwpo_kernels.tile import TINY, sigmoid, softplus

BLOCK = 4096
WARPS = 8
REGISTERS = 128

IGNORED = tl.constexpr(constants.IGNORED)
# How far logits may exceed their reference. exp(60) times any vocabulary is a float32, but a GPU computes exp(z) as
# 2^(z·log2 e), whose rounded exponent makes it err in proportion to |z|: by 3.4e-6 at 60, 1.9e-6 at 40.
SLACK = tl.constexpr(40.0)


@triton.jit
def other_logits(pointers, at, column, vocab, inverse_temperature):
    """Scaled logits of a block, −inf at the label and behind the vocabulary.

    The label is no part of the load's mask: one that changes from lane to lane would make every load two bytes wide.
    """
    z = tl.load(pointers, mask=at < vocab, other=-float("inf")).to(tl.float32) * inverse_temperature
    return tl.where(at == column, -float("inf"), z)


@triton.jit(do_not_specialize=["tokens"], do_not_specialize_on_alignment=["label_ptr", "column_stride"])
def token_logps_kernel(
    logits_ptr,
    label_ptr,
    logps_ptr,
    state_ptr,
    row_stride: tl.int64,
    column_stride,
    tokens,
    vocab: tl.int32,
    inverse_temperature,
    BLOCK: tl.constexpr,
):
    """One row. The maximum of its first block serves as reference; only a logit far above it asks for a second pass.

    With d the log-odds against the label, log p = −softplus(d) and 1 − p = σ(d).
    """
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(label_ptr + row)
    if label == IGNORED:
        tl.store(logps_ptr + row, 0.0)
        tl.store(state_ptr + row, 0.0)
        tl.store(state_ptr + tokens + row, 0.0)
        tl.store(state_ptr + 2 * tokens + row, 0.0)
        return
    logits_ptr += row * row_stride
    column = tl.where((label >= 0) & (label < vocab), label, -1).to(tl.int32)
    offsets = tl.arange(0, BLOCK)
    pointers = logits_ptr + offsets.to(tl.int64) * column_stride
    m = tl.max(other_logits(pointers, offsets, column, vocab, inverse_temperature), axis=0)
    mass = 0.0
    reference = 0.0
    trying = True
    while trying:
        reference = tl.where(m == -float("inf"), 0.0, m)
        b_mass = tl.zeros([BLOCK], dtype=tl.float32)
        b_top = tl.full([BLOCK], -float("inf"), dtype=tl.float32)
        for first in range(0, vocab, BLOCK):
            at = first + offsets
            pointers = logits_ptr + at.to(tl.int64) * column_stride
            z = other_logits(pointers, at, column, vocab, inverse_temperature)
            b_top = tl.maximum(b_top, z)
            b_mass += tl.exp(z - reference)
        mass = tl.sum(b_mass, axis=0)
        top = tl.max(b_top, axis=0)
        trying = top > m + SLACK
        m = tl.where(trying, top, m)
    label_z = tl.load(logits_ptr + column.to(tl.int64) * column_stride, mask=column >= 0, other=float("nan"))
    mass = tl.where(mass < TINY, TINY, mass)  # a label of probability 1 leaves no mass; NaN stays NaN
    d = reference + tl.log(mass) - label_z.to(tl.float32) * inverse_temperature
    miss = sigmoid(d)
    tl.store(logps_ptr + row, -softplus(d))
    tl.store(state_ptr + row, reference)
    tl.store(state_ptr + tokens + row, miss / mass)
    tl.store(state_ptr + 2 * tokens + row, miss)


@triton.jit(
    do_not_specialize=["tokens"],
    do_not_specialize_on_alignment=["label_ptr", "grad_ptr", "state_ptr", "column_stride", "out_column_stride"],
)
def token_logps_backward_kernel(
    out_ptr,
    logits_ptr,
    label_ptr,
    grad_ptr,
    state_ptr,
    out_row_stride: tl.int64,
    out_column_stride,
    row_stride: tl.int64,
    column_stride,
    tokens,
    vocab: tl.int32,
    inverse_temperature,
    BLOCK: tl.constexpr,
):
    """One block of a row: g / T times 1 − p at the label and −p_v elsewhere."""
    blocks = tl.cdiv(vocab, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    offsets = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < vocab
    wide = offsets.to(tl.int64)
    label = tl.load(label_ptr + row)
    value = tl.zeros([BLOCK], dtype=tl.float32)
    if label != IGNORED:
        slope = tl.load(grad_ptr + row) * inverse_temperature
        push = slope * tl.load(state_ptr + 2 * tokens + row)
        pull = slope * tl.load(state_ptr + tokens + row)
        z = tl.load(logits_ptr + row * row_stride + wide * column_stride, mask=mask, other=0.0).to(tl.float32)
        e = tl.exp(z * inverse_temperature - tl.load(state_ptr + row))
        value = tl.where(offsets == label, push, -pull * e)
    pointers = out_ptr + row * out_row_stride + wide * out_column_stride
    tl.store(pointers, value.to(out_ptr.dtype.element_ty), mask=mask)
