"""Triton kernels of the weighted preference loss. One program per pair forward, one per sequence backward."""

from __future__ import annotations

import triton
import triton.language as tl

from iwpo_kernels.weighted_preference.types import TIE

BLOCK = 1024
NUM_WARPS = 4
ROUNDING = tl.constexpr(TIE)
_RUN_TIME = ("tokens", "has_ref", "has_weights", "has_lengths", "has_smoothing", "has_shift", "average")
# Sequences begin anywhere, so pointers that are aligned help no load.
_POINTERS = (
    "logps_ptr",
    "segment_ptr",
    "ref_logps_ptr",
    "weight_ptr",
    "length_ptr",
    "smoothing_ptr",
    "shift_ptr",
    "sequence_logps_ptr",
    "coefficient_ptr",
    "term_ptr",
)


@triton.jit
def _segment(logps_ptr, segment_ptr, sequence, tokens, BLOCK: tl.constexpr):
    """Sum over the tokens of a sequence, NaN where its offsets are no range of tokens; and their number."""
    start = tl.load(segment_ptr + sequence)
    end = tl.load(segment_ptr + sequence + 1)
    fits = (start >= 0) & (start <= end) & (end <= tokens)
    stop = tl.where(fits, end, start)
    total = tl.zeros([BLOCK], dtype=tl.float64)
    for offset in range(start, stop, BLOCK):
        index = offset + tl.arange(0, BLOCK)
        total += tl.load(logps_ptr + index, mask=index < stop, other=0.0).to(tl.float64)
    return tl.where(fits, tl.sum(total), float("nan")), end - start


@triton.jit
def _closed_form(x, FORM: tl.constexpr):
    """f(x) and f'(x); the comparisons let NaN through."""
    if FORM == "sigmoid":
        u = tl.exp(-tl.abs(x))
        value = tl.where(x >= 0, 0.0, -x) + tl.log(1 + u)
        derivative = -tl.where(x >= 0, u, 1.0) / (1 + u)
    elif FORM == "squared":
        value = x * x
        derivative = 2 * x
    else:
        value = tl.where(x >= 0, 0.0, -x)
        derivative = tl.where(x >= 0, 0.0, -1.0)
    return value, derivative


@triton.jit
def _divisor(length_ptr, sequence, tokens, has_lengths, average):
    length = tl.load(length_ptr + sequence, mask=has_lengths != 0, other=0)
    length = tl.where(has_lengths != 0, length, tokens)
    return tl.where(average != 0, tl.maximum(length, 1), 1).to(tl.float64)


@triton.jit(do_not_specialize=_RUN_TIME, do_not_specialize_on_alignment=_POINTERS)
def weighted_preference_fwd_kernel(
    logps_ptr,
    segment_ptr,
    ref_logps_ptr,
    weight_ptr,
    length_ptr,
    smoothing_ptr,
    shift_ptr,
    sequence_logps_ptr,
    coefficient_ptr,
    term_ptr,
    tokens,
    smoothing: tl.float64,
    shift: tl.float64,
    slope: tl.float64,
    beta: tl.float64,
    has_ref,
    has_weights,
    has_lengths,
    has_smoothing,
    has_shift,
    average,
    FORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """From token log-probs to `sequence_logps` and `coefficients` [2P] and `terms` float64 [11, P]."""
    pair = tl.program_id(0)
    pairs = tl.num_programs(0)
    other = pairs + pair

    chosen_logp, chosen_tokens = _segment(logps_ptr, segment_ptr, pair, tokens, BLOCK)
    rejected_logp, rejected_tokens = _segment(logps_ptr, segment_ptr, other, tokens, BLOCK)
    covers = (tl.load(segment_ptr) == 0) & (tl.load(segment_ptr + 2 * pairs) == tokens)
    chosen_logp = tl.where(covers, chosen_logp, float("nan"))
    chosen_ratio = chosen_logp - tl.load(ref_logps_ptr + pair, mask=has_ref != 0, other=0.0)
    rejected_ratio = rejected_logp - tl.load(ref_logps_ptr + other, mask=has_ref != 0, other=0.0)
    chosen_divisor = _divisor(length_ptr, pair, chosen_tokens, has_lengths, average)
    rejected_divisor = _divisor(length_ptr, other, rejected_tokens, has_lengths, average)
    h = chosen_ratio / chosen_divisor - rejected_ratio / rejected_divisor

    eps = tl.load(smoothing_ptr + pair, mask=has_smoothing != 0, other=0.0).to(tl.float64)
    eps = tl.where(has_smoothing != 0, eps, smoothing)
    b = tl.load(shift_ptr + pair, mask=has_shift != 0, other=0.0).to(tl.float64)
    b = tl.where(has_shift != 0, b, shift)
    kept_value, kept_derivative = _closed_form(slope * h - b, FORM)
    flipped_value, flipped_derivative = _closed_form(-slope * h - b, FORM)
    # A label that is never flipped has no part in the other loss, though that is infinite.
    flipped_value = tl.where((eps == 0) & (flipped_value == float("inf")), 0.0, flipped_value)
    value = (1 - eps) * kept_value + eps * flipped_value
    derivative = slope * ((1 - eps) * kept_derivative - eps * flipped_derivative)

    weight = tl.load(weight_ptr + pair, mask=has_weights != 0, other=1.0).to(tl.float64)
    weighted = tl.where(weight == 0, 0.0, weight * value)
    coefficient = tl.where(weight == 0, 0.0, weight * derivative)

    chosen_reward = beta * chosen_ratio
    rejected_reward = beta * rejected_ratio
    margin = chosen_reward - rejected_reward
    tl.store(sequence_logps_ptr + pair, chosen_logp)
    tl.store(sequence_logps_ptr + other, rejected_logp)
    tl.store(coefficient_ptr + pair, coefficient / chosen_divisor)
    tl.store(coefficient_ptr + other, -coefficient / rejected_divisor)
    term_ptr += pair
    tl.store(term_ptr, 1.0)
    tl.store(term_ptr + pairs, weight)
    tl.store(term_ptr + 2 * pairs, weight * weight)
    tl.store(term_ptr + 3 * pairs, weighted)
    tl.store(term_ptr + 4 * pairs, value)
    tl.store(term_ptr + 5 * pairs, chosen_reward)
    tl.store(term_ptr + 6 * pairs, rejected_reward)
    tl.store(term_ptr + 7 * pairs, margin)
    rounding = ROUNDING * beta * (tl.abs(chosen_logp) + tl.abs(rejected_logp))
    correct = tl.where(margin > rounding, 1.0, tl.where(tl.abs(margin) <= rounding, 0.5, 0.0))
    tl.store(term_ptr + 8 * pairs, correct.to(tl.float64))
    tl.store(term_ptr + 9 * pairs, chosen_logp)
    tl.store(term_ptr + 10 * pairs, rejected_logp)


@triton.jit(
    do_not_specialize=("tokens",),
    do_not_specialize_on_alignment=("grad_ptr", "coefficient_ptr", "segment_ptr", "token_grad_ptr"),
)
def weighted_preference_bwd_kernel(grad_ptr, coefficient_ptr, segment_ptr, token_grad_ptr, tokens, BLOCK: tl.constexpr):
    """Each token of a sequence gets grad · coefficient of the sequence."""
    sequence = tl.program_id(0)
    start = tl.maximum(tl.load(segment_ptr + sequence), 0)
    end = tl.minimum(tl.load(segment_ptr + sequence + 1), tokens)
    value = tl.load(grad_ptr) * tl.load(coefficient_ptr + sequence)
    for offset in range(start, end, BLOCK):
        index = offset + tl.arange(0, BLOCK)
        tl.store(token_grad_ptr + index, tl.zeros([BLOCK], dtype=tl.float32) + value, mask=index < end)
