"""In TRL's place the operator gives what TRL's own gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl")

import trl.trainer.utils as trl_utils
from trl.kernels import ChunkedLogProbFunction

from iwpo_fast.integrations.trl import fused_head, patch_trl, unpatch_trl

OUTPUTS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
TOKENS, WIDTH, VOCAB = 23, 16, 301


def head(dtype: torch.dtype, *, bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    labels = torch.randint(VOCAB, (TOKENS,), generator=generator)
    return made(TOKENS, WIDTH), made(VOCAB, WIDTH), made(VOCAB) if bias else None, labels


def results(operator: Any, given: tuple[Any, ...], coefficients: tuple[float, float], **settings: Any) -> list[Any]:
    """What an operator returns, and its gradients of a loss of log-probs and entropies."""
    tensors = [None if one is None else one.detach().clone().requires_grad_() for one in given[:3]]
    call = {"temperature": 0.7, "chunk_size": 8192, "softcap": None, "scale": 1.0, "outputs": OUTPUTS} | settings
    found = operator.apply(*tensors, given[3], *call.values())
    loss = coefficients[0] * found[0].square().sum()
    if coefficients[1]:
        loss = loss + coefficients[1] * found[1].square().sum()
    present = [one for one in tensors if one is not None]
    gradients = torch.autograd.grad(loss, present)
    return [*(None if one is None else one.detach() for one in found), *gradients]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("settings", "entropy"),
    [
        ({"outputs": ("log_probs",)}, 0.0),
        ({}, 0.0),
        ({}, 0.3),
        ({"softcap": 5.0}, 0.3),
        ({"scale": 0.25}, 0.3),
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_trls_operator(bias, settings, entropy) -> None:
    given, coefficients = head(torch.float32, bias=bias), (1.0, entropy)
    theirs = results(ChunkedLogProbFunction, given, coefficients, **settings)
    with fused_head():
        ours = results(trl_utils._ChunkedLogProbFunction, given, coefficients, **settings)
    for mine, other in zip(ours, theirs, strict=True):
        if other is None:
            assert mine is None
        else:
            assert mine.dtype == other.dtype
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_the_log_probs_are_nearer_to_the_exact_ones_than_trls() -> None:
    given = head(torch.bfloat16, bias=False)
    exact = (given[0].double() @ given[1].double().T / 0.7).log_softmax(-1).gather(1, given[3][:, None])[:, 0]
    with fused_head():
        ours = results(trl_utils._ChunkedLogProbFunction, given, (1.0, 0.0))[0]
    theirs = results(ChunkedLogProbFunction, given, (1.0, 0.0))[0]
    assert (ours - exact).abs().max() < (theirs - exact).abs().max()


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_autocast_is_followed(weights) -> None:
    hidden, weight, _, labels = head(torch.float32, bias=False)
    given = (hidden, weight.to(weights).detach(), None, labels)
    with torch.autocast("cpu", torch.bfloat16), fused_head():
        ours = results(trl_utils._ChunkedLogProbFunction, given, (1.0, 0.0))
    plain = results(ChunkedLogProbFunction, (hidden, weight.to(weights).float(), None, labels), (1.0, 0.0))
    torch.testing.assert_close(ours[0], plain[0], rtol=0.02, atol=0.1)
    assert ours[5].dtype == torch.float32 and ours[6].dtype == weights


def test_no_token_at_all_has_a_gradient_of_zeros() -> None:
    hidden, weight, _, labels = head(torch.float32, bias=False)
    with fused_head():
        found = results(trl_utils._ChunkedLogProbFunction, (hidden[:0], weight, None, labels[:0]), (1.0, 0.0))
    assert found[0].shape == (0,) and not found[6].any()


def test_a_head_that_deepspeed_has_partitioned_stays_with_trl(monkeypatch) -> None:
    hidden, weight, _, labels = head(torch.float32, bias=False)
    weight.ds_id = 1  # type: ignore[attr-defined]
    monkeypatch.setattr("iwpo_fast.integrations.trl.head._per_token", lambda *_: pytest.fail("ours was called"))
    with fused_head():
        operator = trl_utils._ChunkedLogProbFunction
        assert operator.apply(hidden, weight, None, labels, 1.0, 8192, None, 1.0, ("log_probs",))[0].shape == (TOKENS,)


def test_patching_twice_and_unpatching_gives_trl_its_own_back() -> None:
    patch_trl()
    patch_trl()
    assert trl_utils._ChunkedLogProbFunction is not ChunkedLogProbFunction
    unpatch_trl()
    assert trl_utils._ChunkedLogProbFunction is ChunkedLogProbFunction


def test_a_trl_without_such_a_head_is_named(monkeypatch) -> None:
    monkeypatch.delattr(trl_utils, "_ChunkedLogProbFunction")
    with pytest.raises(ValueError, match=r"^TRL \S+ has no fused LM head whose operator could be replaced: install"):
        patch_trl()
