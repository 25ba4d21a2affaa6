"""How `token_logps` is cut into launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from iwpo_kernels.token_logps import gpu, kernels, token_logps


class Counted:
    """A kernel that notes the number of programs of each launch."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.programs: list[int] = []

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        self.programs.append(grid[0])
        return self.kernel[grid]


@pytest.mark.parametrize("inplace", [False, True])
def test_gradient_is_bitwise_the_same_in_several_launches(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, inplace: bool
) -> None:
    monkeypatch.setattr(kernels, "BLOCK", 64)
    counted = Counted(kernels.token_logps_backward_kernel)
    monkeypatch.setattr(kernels, "token_logps_backward_kernel", counted)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(37, 203, generator=generator).to(device)
    labels = torch.randint(203, (37,), generator=generator).to(device)
    labels[20] = -100
    grad = torch.randn(37, generator=generator).to(device)

    def gradient() -> torch.Tensor:
        leaf = logits.clone().requires_grad_()
        return torch.autograd.grad(token_logps(leaf * 1, labels, inplace_backward=inplace), leaf, grad)[0]

    together = gradient()
    monkeypatch.setattr(gpu, "PROGRAMS", 100)
    assert torch.equal(gradient(), together)
    assert counted.programs == [37 * 4, 16 * 4, 16 * 4, 5 * 4]


@pytest.mark.parametrize("blocks", [1, 38, 4000])
def test_launches_stay_within_the_threads_that_a_gpu_counts(blocks: int) -> None:
    rows = gpu.rows_at_once(blocks)
    assert rows % 16 == 0
    assert 2**30 < rows * blocks * kernels.WARPS * 64 < 2**32
