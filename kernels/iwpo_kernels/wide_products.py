"""Products of 16-bit matrices with float32 results, never rounded in between."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

AddProduct = Callable[[Tensor, Tensor, Tensor], object]


def mm_fp32(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a [M, K] times b [K, N] as float32 [M, N], into `out` where it is given.

    Where the device lacks a 16-bit product with a 32-bit result, the inputs are widened first.
    """
    if a.dtype != torch.float32 and _adds_in_place(a.device, a.dtype) is not None:
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)


def addmm_fp32(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total [M, N] ← total + a [M, K] times b [K, N], in float32."""
    add = None if a.dtype == torch.float32 else _adds_in_place(a.device, a.dtype)
    if add is not None:
        add(total, a, b)
    elif total.is_cuda:
        total.addmm_(a.float(), b.float())
    else:  # a CPU's addmm adds blocks of a long sum to the total one by one, where a GPU adds the whole sum
        total.add_(torch.mm(a.float(), b.float()))


def _addmm(total: Tensor, a: Tensor, b: Tensor) -> None:
    torch.addmm(total, a, b, out_dtype=torch.float32, out=total)


def _baddbmm(total: Tensor, a: Tensor, b: Tensor) -> None:
    torch.baddbmm(total[None], a[None], b[None], out_dtype=torch.float32, out=total[None])


@functools.cache
def _adds_in_place(device: torch.device, dtype: torch.dtype) -> AddProduct | None:
    """How a product of `dtype` is added to a float32 matrix in place, or None where there is no wide product.

    None makes every product one of float32, which is said once, with its price.
    """
    if not has_wide_kernels(device):
        return None
    try:
        torch.mm(*_small(device, dtype), out_dtype=torch.float32)
    except RuntimeError as error:
        _raise_if_unrelated(error)
        logger.warning(
            "%s multiplies no %s matrices into float32, so products are computed in float32, which may take ten times "
            "as long; update PyTorch, or report this: %s",
            device,
            dtype,
            str(error).partition("\n")[0],
        )
        return None
    return next((add for add in (_addmm, _baddbmm) if _is_right(add, device, dtype)), _add_separately)


def has_wide_kernels(device: torch.device) -> bool:
    """PyTorch has none for CPUs, where float32 is as fast."""
    return device.type == "cuda"


def _is_right(add: AddProduct, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `add` exists, and keeps bits of the total that 16 bits have no room for."""
    start = 1 + 2.0**-20
    total = torch.full((16, 16), start, device=device)
    try:
        add(total, *_small(device, dtype))
    except RuntimeError as error:
        _raise_if_unrelated(error)
        return False
    return bool((total == start + 1).all())


def _small(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two matrices whose product is 1 everywhere."""
    ones = torch.ones(16, 16, device=device, dtype=dtype)
    return ones, ones / 16


def _add_separately(total: Tensor, a: Tensor, b: Tensor) -> None:
    total.add_(torch.mm(a, b, out_dtype=torch.float32))


def _raise_if_unrelated(error: RuntimeError) -> None:
    """Raises again what says nothing about the product: no memory, or a failed device. The cache keeps no exception."""
    if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)) or "ALLOC_FAILED" in str(error):
        raise error
