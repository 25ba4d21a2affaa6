"""Triton functions that several kernels share."""

import triton
import triton.language as tl

# The smallest normal float32.
TINY = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def tanh(x):
    """tanh(x) to a few units of the last place: below 1/4, where 1 − exp(−2x) cancels, by its Taylor series."""
    t = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - t) / (1.0 + t)
    s = x * x
    series = x - x * s * (1.0 / 3.0 - s * (2.0 / 15.0 - s * (17.0 / 315.0 - s * (62.0 / 2835.0))))
    return tl.where(s < 0.0625, series, tl.where(x < 0, -y, y))


@triton.jit
def log1p(x):
    """log(1 + x) for x ≥ 0; the quotient takes back what rounding did to 1 + x."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(−x)), with relative accuracy on both sides."""
    t = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, t) / (1.0 + t)
