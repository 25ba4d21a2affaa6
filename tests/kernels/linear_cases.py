"""Inputs of `linear_token_logps` in several regimes, and the bounds that its results are held to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from iwpo_kernels.linear_token_logps import (
    TokenStatistics,
    kernels,
    linear_token_logps,
    linear_token_statistics,
    naive_linear_token_logps,
    naive_linear_token_statistics,
    tiling,
)

STATISTICS: dict[Callable[..., Any], Callable[..., TokenStatistics]] = {
    linear_token_logps: linear_token_statistics,
    naive_linear_token_logps: naive_linear_token_statistics,
}
LOGP_TOLERANCE = 5e-6
RELATIVE_FLOOR = 1e-6


@dataclass(frozen=True)
class Case:
    """Arguments of one call, in float32 on a CPU; `run` casts and moves them.

    Attributes:
        grad: [N], what the backward pass starts from.
        frozen: which of hidden, weight and bias need no gradient.
    """

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    grad: Tensor
    bias: Tensor | None = None
    hidden_index: Tensor | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    @property
    def largest_logit(self) -> float:
        """Before the softcap, which makes none larger."""
        raw = self.hidden @ self.weight.T + (0 if self.bias is None else self.bias)
        return float(raw.abs().max()) * abs(self.settings.get("scale", 1.0)) / self.settings.get("temperature", 1.0)

    def rounded(self, dtype: torch.dtype) -> Case:
        """Values that `dtype` can hold, so that every precision sees the same inputs."""
        bias = None if self.bias is None else self.bias.to(dtype).float()
        return replace(self, hidden=self.hidden.to(dtype).float(), weight=self.weight.to(dtype).float(), bias=bias)


@dataclass(frozen=True)
class Result:
    values: TokenStatistics
    grads: dict[str, Tensor]


def random_case(
    tokens: int = 7, features: int = 20, vocab: int = 67, seed: int = 0, bias: bool = False, spread: float = 1.0
) -> Case:
    """Logits of about `spread` standard deviations."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Case(
        hidden=normal(tokens, features),
        weight=normal(vocab, features) * spread / features**0.5,
        labels=torch.randint(vocab, (tokens,), generator=generator),
        grad=normal(tokens),
        bias=normal(vocab) if bias else None,
    )


def run(
    operator: Callable[..., Any], case: Case, dtype: torch.dtype, device: torch.device | str = "cpu", **options: Any
) -> Result:
    """Values and gradients, back on the CPU in float64."""
    tensors = {"hidden": case.hidden, "weight": case.weight}
    if case.bias is not None:
        tensors["bias"] = case.bias
    leaves = {
        name: tensor.to(device, dtype, copy=True).requires_grad_(name not in case.frozen)
        for name, tensor in tensors.items()
    }
    index = None if case.hidden_index is None else case.hidden_index.to(device)
    labels = case.labels.to(device)
    given = (leaves["hidden"], leaves["weight"], labels)
    asked = {"hidden_index": index, "log_sum_exp": True, **case.settings, **options}
    values = STATISTICS[operator](*given, bias=leaves.get("bias"), **asked)
    values.logps.backward(case.grad.to(device, values.logps.dtype))
    grads = {name: leaf.grad.cpu().double() for name, leaf in leaves.items() if leaf.grad is not None}
    return Result(TokenStatistics(*(value.cpu().double() for value in values)), grads)


def assert_exact(case: Case, dtype: torch.dtype, device: torch.device | str = "cpu", **options: Any) -> Result:
    """Log-probs as float64 has them; gradients within twice the error of plain PyTorch in the same dtype."""
    case = case.rounded(dtype)
    ours = run(linear_token_logps, case, dtype, device, **options)
    truth = run(naive_linear_token_logps, case, torch.float64)
    plain = run(naive_linear_token_logps, case, dtype)
    error = (ours.values.logps - truth.values.logps).abs()
    assert (error <= LOGP_TOLERANCE * (1 + truth.values.logps.abs())).all(), error.max()
    assert_same_statistics(ours.values, truth.values)
    assert ours.grads.keys() == truth.grads.keys()
    for name, true in truth.grads.items():
        assert_gradient_within(name, ours.grads[name], plain.grads[name], true, dtype, case.largest_logit)
    return ours


def assert_gradient_within(
    name: str, ours: Tensor, plain: Tensor, truth: Tensor, dtype: torch.dtype, largest_logit: float
) -> None:
    """Twice plain PyTorch's error, as a whole and in each row, where a bias has rows of one element.

    Of one row PyTorch's error may be small by luck. So each may also be off by the resolution of its own numbers, and,
    where logits are large, by what the rounding of one to float32 does to the largest row.
    """
    whole = 2 * (plain - truth).norm() + RELATIVE_FLOOR * truth.norm()
    assert (ours - truth).norm() <= whole, name
    if not len(truth):
        return
    error, plain_error, size = (
        rows.reshape(len(rows), -1).norm(dim=1) for rows in (ours - truth, plain - truth, truth)
    )
    logit_rounding = largest_logit * torch.finfo(torch.float32).eps / 2
    bound = 2 * plain_error + (RELATIVE_FLOOR + torch.finfo(dtype).eps) * size + logit_rounding * size.max()
    assert (error <= bound).all(), (name, int((error - bound).argmax()))


def assert_same_statistics(ours: TokenStatistics, truth: TokenStatistics) -> None:
    for name in ("entropy", "sum_p2", "mean_logit", "log_sum_exp"):
        torch.testing.assert_close(getattr(ours, name), getattr(truth, name), rtol=2e-5, atol=2e-5)
    assert torch.equal(ours.target_is_argmax, truth.target_is_argmax)


def forget_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those chosen so far, and afterwards those chosen by other constants."""
    monkeypatch.setattr(tiling, "_fastest", functools.lru_cache(tiling._fastest.__wrapped__))


def shrink_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, slices and blocks of each kernel also where inputs are tiny."""
    forget_tiles(monkeypatch)
    monkeypatch.setattr(tiling, "ALIGNMENT", 16)
    monkeypatch.setattr(tiling, "WIDEST_SLICE", 32)
    monkeypatch.setattr(tiling, "MOST_ROWS", 4)
    monkeypatch.setattr(tiling, "CPU_ROWS", 4)
    monkeypatch.setattr(kernels, "SLICE_BLOCK", 16)
    monkeypatch.setattr(kernels, "RECOMPUTE_BLOCK", 16)
    monkeypatch.setattr(kernels, "FEATURE_BLOCK", 32)
    monkeypatch.setattr(kernels, "SUM_BLOCK", 32)
    monkeypatch.setattr(kernels, "SUM_MEMBERS", 2)


def capped(case: Case) -> Case:
    return replace(case, settings={"softcap": 2.0, "scale": 0.7, "temperature": 1.3})


def rising(case: Case) -> Case:
    """Each slice of the vocabulary far above the one before, so that references move and masses are rescaled."""
    lifts = torch.tensor([0.0, 40.0, 90.0]).repeat_interleave(32)[: len(case.weight)]
    return replace(case, bias=lifts)


def certain(case: Case) -> Case:
    """Labels with a logit of 30, which leaves the others a probability of 1e-9 or so."""
    rows = 30 * case.hidden / case.hidden.square().sum(1, keepdim=True)
    return replace(case, weight=case.weight.index_put((case.labels,), rows))


def hopeless(case: Case) -> Case:
    """Labels with a log-prob of about −60."""
    bias = torch.zeros(len(case.weight)).index_put((case.labels,), torch.tensor(-55.0))
    return replace(case, bias=bias)


def shifted(amount: float) -> Callable[[Case], Case]:
    return lambda case: replace(case, bias=torch.full((len(case.weight),), amount))


def repeated(case: Case) -> Case:
    """Rows 0 and 3 predict two tokens each, row 2 none; one label is skipped, one label occurs three times."""
    index = torch.tensor([3, 0, 0, 1, 3, 4, 5, 6])
    labels = torch.tensor([7, 66, 7, 50, 3, 0, 7, 65]) % len(case.weight)
    labels[5] = -100
    return replace(case, hidden_index=index, labels=labels, grad=torch.linspace(-1, 1, 8))


def masked(case: Case) -> Case:
    return replace(case, labels=torch.full_like(case.labels, -100))


def half_masked(case: Case) -> Case:
    """All tokens of the first sequence, none of the second."""
    return replace(case, labels=case.labels.index_fill(0, torch.arange(len(case.labels) // 2), -100))


def single(case: Case) -> Case:
    return replace(case, hidden=case.hidden[:1], labels=case.labels[:1], grad=case.grad[:1])


REGIMES = {
    "random": lambda case: case,
    "softcap, scale and temperature": capped,
    "rising": rising,
    "certain": certain,
    "hopeless": hopeless,
    "shifted up": shifted(30.0),
    "shifted down": shifted(-30.0),
    "repeated rows": repeated,
    "all masked": masked,
    "a sequence masked": half_masked,
    "one token": single,
}
