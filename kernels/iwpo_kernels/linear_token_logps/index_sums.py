"""Rows that are summed by an index, in the order of the rows: sums repeat bitwise."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from iwpo_kernels.launch import launch_options
from iwpo_kernels.linear_token_logps import kernels


def sum_by_index(out: Tensor, source: Tensor, coefficient: Tensor, index: Tensor) -> None:
    """out_g ← Σ coefficient_i · source_i over the i with index_i = g, for every row g of out [G, H]."""
    values, member = index.sort(stable=True)
    bounds = torch.searchsorted(values, torch.arange(out.shape[0] + 1, device=index.device))
    kernels.gather_sum_kernel[(out.shape[0] * triton.cdiv(out.shape[1], kernels.SUM_BLOCK),)](
        out,
        source,
        coefficient,
        member,
        bounds,
        source.stride(0),
        out.shape[1],
        MEMBERS=kernels.SUM_MEMBERS,
        BLOCK=kernels.SUM_BLOCK,
        **launch_options(4, kernels.REGISTERS),
    )


def add_by_index(out: Tensor, source: Tensor, row: Tensor | None, coefficient: Tensor, index: Tensor) -> None:
    """out_g ← out_g + Σ coefficient_i · source[row_i] over the i with index_i = g, for the rows g of out that have any.

    Indices beyond the rows of `out` are left out. The cost goes by the number of indices, not by that of rows.
    """
    values, member = index.sort(stable=True)
    kernels.push_kernel[(index.shape[0] * triton.cdiv(out.shape[1], kernels.SUM_BLOCK),)](
        out,
        source,
        coefficient,
        values,
        member,
        member if row is None else row,
        source.stride(0),
        index.shape[0],
        out.shape[0],
        out.shape[1],
        ROWS=row is not None,
        MEMBERS=kernels.SUM_MEMBERS,
        BLOCK=kernels.SUM_BLOCK,
        **launch_options(4, kernels.REGISTERS),
    )
