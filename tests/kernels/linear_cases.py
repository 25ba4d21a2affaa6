"""Inputs of `linear_token_logps` in several regimes, and the bounds that its results are held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from iwpo_kernels.linear_token_logps import TokenLogps, linear_token_logps, naive_linear_token_logps

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

    def rounded(self, dtype: torch.dtype) -> Case:
        """Values that `dtype` can hold, so that every precision sees the same inputs."""
        bias = None if self.bias is None else self.bias.to(dtype).float()
        return replace(self, hidden=self.hidden.to(dtype).float(), weight=self.weight.to(dtype).float(), bias=bias)


@dataclass(frozen=True)
class Result:
    values: TokenLogps
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
    values = operator(labels=labels, hidden_index=index, stats=True, **leaves, **case.settings, **options)
    values.logps.backward(case.grad.to(device, values.logps.dtype))
    grads = {name: leaf.grad.cpu().double() for name, leaf in leaves.items() if leaf.grad is not None}
    return Result(TokenLogps(*(value.cpu().double() for value in values)), grads)


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
        bound = 2 * (plain.grads[name] - true).norm() + RELATIVE_FLOOR * true.norm()
        assert (ours.grads[name] - true).norm() <= bound, name
    return ours


def assert_same_statistics(ours: TokenLogps, truth: TokenLogps) -> None:
    for name in ("entropy", "sum_p2", "mean_logit"):
        torch.testing.assert_close(getattr(ours, name), getattr(truth, name), rtol=2e-5, atol=2e-5)
    assert torch.equal(ours.target_is_argmax, truth.target_is_argmax)
