"""`linear_token_logps` against the chunked operators of other libraries, on the same inputs."""

from __future__ import annotations

import pytest
import torch
from linear_cases import random_case

from iwpo_kernels.linear_token_logps import (
    linear_token_logps,
    linear_token_statistics,
    naive_linear_token_logps,
)

HEAD = {"softcap": 2.0, "scale": 0.7, "temperature": 1.3}


@pytest.mark.parametrize("trainable", [True, False])
def test_equals_trl_chunked_log_probs(trainable: bool) -> None:
    chunked = pytest.importorskip("trl.kernels.chunked_logprob").ChunkedLogProbFunction
    case = random_case(tokens=40, features=32, vocab=1001, bias=True)

    def leaves() -> list[torch.Tensor]:
        assert case.bias is not None
        hidden, weight, bias = case.hidden.clone(), case.weight.clone(), case.bias.clone()
        return [hidden.requires_grad_(), weight.requires_grad_(trainable), bias.requires_grad_(trainable)]

    ours, theirs = leaves(), leaves()
    hidden, weight, bias = ours
    values = linear_token_statistics(hidden, weight, case.labels, bias=bias, **HEAD)
    logps, entropy, log_sum_p2, mean_logit, is_top1 = chunked.apply(
        *theirs, case.labels, HEAD["temperature"], 256, HEAD["softcap"], HEAD["scale"]
    )
    expected = (logps, entropy, log_sum_p2.exp(), is_top1, mean_logit)
    for value, their_value in zip(values[:-1], expected, strict=True):  # the log-sum-exp was not asked for
        torch.testing.assert_close(value.detach(), their_value.detach(), rtol=1e-5, atol=1e-5)
    torch.manual_seed(0)
    grad = torch.randn(40)
    values.logps.backward(grad)
    logps.backward(grad)
    for leaf, their_leaf in zip(ours, theirs, strict=True):
        assert (leaf.grad is None) == (their_leaf.grad is None)
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, their_leaf.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_agrees_with_cut_cross_entropy() -> None:
    """Its gradients are rounded to 16 bits on the way; ours must be at least as near to the exact ones."""
    linear_cross_entropy = pytest.importorskip("cut_cross_entropy").linear_cross_entropy
    case = random_case(tokens=256, features=256, vocab=50257)
    tensors = [case.hidden.cuda().bfloat16(), case.weight.cuda().bfloat16()]
    labels = case.labels.cuda()
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in tensors] for _ in range(2))
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    logps = linear_token_logps(*ours, labels)
    losses = linear_cross_entropy(*theirs, labels, reduction="none", filter_eps=None)  # leaves nothing out
    torch.testing.assert_close(logps, -losses.float(), rtol=1e-2, atol=1e-2)
    logps.sum().backward()
    (-losses.sum()).backward()
    naive_linear_token_logps(*exact, labels).sum().backward()
    for mine, other, truth in zip(ours, theirs, exact, strict=True):
        of_mine, of_other = ((leaf.grad - truth.grad).norm() / truth.grad.norm() for leaf in (mine, other))
        assert of_mine <= of_other <= 5e-2
