"""Rows summed by an index: into rows that are written, and onto rows that have some already."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iwpo_kernels.linear_token_logps import kernels
from iwpo_kernels.linear_token_logps.index_sums import add_by_index, sum_by_index

GROUPS, FEATURES = 12, 40


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SUM_BLOCK", 32)
    monkeypatch.setattr(kernels, "SUM_MEMBERS", 2)


def inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Source, coefficient, and an index in which one group has five members, one two, and one none."""
    generator = torch.Generator().manual_seed(0)
    index = torch.tensor([3, 0, 3, 11, 3, 5, 5, 3, 3, 8])
    coefficient = torch.randn(10, generator=generator)
    coefficient[1] = 0.0
    source = torch.randn(10, FEATURES, generator=generator)
    source[1] = torch.nan  # not read, as its coefficient is 0
    return source.to(device), coefficient.to(device), index.to(device)


def truth(source: Tensor, coefficient: Tensor, index: Tensor) -> Tensor:
    terms = coefficient.double()[:, None] * source.double()
    return torch.zeros(GROUPS, FEATURES).double().index_add_(0, index.cpu(), terms.nan_to_num(0.0).cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_row_is_the_sum_of_its_members(device: torch.device, dtype: torch.dtype) -> None:
    source, coefficient, index = inputs(device)
    out = torch.empty(GROUPS, FEATURES, dtype=dtype, device=device)
    sum_by_index(out, source, coefficient, index)
    torch.testing.assert_close(out.cpu(), truth(source, coefficient, index).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_added_to_the_rows_that_have_members(device: torch.device, dtype: torch.dtype) -> None:
    source, coefficient, index = inputs(device)
    before = torch.randn(GROUPS, FEATURES, generator=torch.Generator().manual_seed(1)).to(dtype)
    out = before.to(device, copy=True)
    add_by_index(out, source, None, coefficient, index)
    expected = truth(source, coefficient, index)
    torch.testing.assert_close(out.cpu(), (before.double() + expected).to(dtype))
    alone = torch.ones(GROUPS, dtype=torch.bool).index_fill(0, index.cpu(), False)
    assert torch.equal(out.cpu()[alone], before[alone])


def test_members_may_lie_in_other_rows_of_the_source(device: torch.device) -> None:
    source, coefficient, index = inputs(device)
    row = torch.tensor([9, 1, 9, 0, 2, 3, 4, 5, 6, 7], device=device)
    out, gathered = (torch.zeros(GROUPS, FEATURES, device=device) for _ in range(2))
    add_by_index(out, source, row, coefficient, index)
    add_by_index(gathered, source[row], None, coefficient, index)
    assert torch.equal(out, gathered)


def test_an_index_beyond_the_rows_is_left_out(device: torch.device) -> None:
    source, coefficient, index = inputs(device)
    beyond = index.clone()
    beyond[3], beyond[9] = GROUPS, -7
    out, without = (torch.zeros(GROUPS, FEATURES, device=device) for _ in range(2))
    add_by_index(out, source, None, coefficient, beyond)
    inside = [i for i in range(10) if i not in (3, 9)]
    add_by_index(without, source[inside], None, coefficient[inside], index[inside])
    assert torch.equal(out, without)
