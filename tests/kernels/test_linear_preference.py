"""The preference loss from hidden states, against logits, log-softmax and autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from preference_cases import LOSSES, offsets
from torch import Tensor

from iwpo_kernels import LinearPreferenceLoss, linear_preference_loss
from iwpo_kernels.linear_preference.op import supervised_lengths
from iwpo_kernels.linear_token_logps import naive_linear_token_logps
from iwpo_kernels.weighted_preference import naive_weighted_preference_loss

LENGTHS = [7, 3, 0, 5, 9, 1, 4, 6]
TOKENS, ROWS, FEATURES, VOCAB = sum(LENGTHS), 30, 24, 61
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": 0.3 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(1))},
    "softcap, scale, temperature": {"softcap": 3.0, "scale": 0.7, "temperature": 1.3},
}


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    labels[[1, 2, 8, 30]] = -100
    return {
        "hidden": torch.randn(ROWS, FEATURES, generator=generator),
        "head_weight": torch.randn(VOCAB, FEATURES, generator=generator) / FEATURES**0.5,
        "labels": labels,
        "segments": offsets(LENGTHS),
        "ref_logps": -10 * torch.rand(8, generator=generator),
        "pair_weights": torch.rand(4, generator=generator),
        "hidden_index": torch.randint(0, ROWS, (TOKENS,), generator=generator),
    }


def doubled(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in values.items()}


def naive_loss(batch: dict[str, Tensor], head: dict[str, Any], loss: dict[str, Any]) -> Tensor:
    logps = naive_linear_token_logps(
        batch["hidden"], batch["head_weight"], batch["labels"], hidden_index=batch["hidden_index"], **head
    )
    lengths = torch.stack([(part != -100).sum() for part in batch["labels"].split(LENGTHS)])
    return naive_weighted_preference_loss(
        logps, batch["segments"], batch["ref_logps"], batch["pair_weights"], lengths=lengths, **loss
    )


def gradients(loss: Tensor, batch: dict[str, Tensor], head: dict[str, Any]) -> list[Tensor]:
    inputs = [batch["hidden"], batch["head_weight"], *([head["bias"]] if "bias" in head else [])]
    return list(torch.autograd.grad(loss, inputs))


def differentiable(values: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v.clone().requires_grad_() if k in ("hidden", "head_weight", "bias") and isinstance(v, Tensor) else v
        for k, v in values.items()
    }


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_those_from_logits(batch, head, name) -> None:
    options = LOSSES[name]
    exact_batch, exact_head = differentiable(doubled(batch)), differentiable(doubled(HEADS[head]))
    truth = naive_loss(exact_batch, exact_head, doubled(options))
    plain_batch, plain_head = differentiable(batch), differentiable(HEADS[head])
    plain = gradients(naive_loss(plain_batch, plain_head, options), plain_batch, plain_head)
    our_batch, our_head = differentiable(batch), differentiable(HEADS[head])
    loss = linear_preference_loss(**our_batch, **our_head, **options).loss
    assert (loss - truth).abs() <= 5e-6 * (1 + truth.abs())
    ours = gradients(loss, our_batch, our_head)
    for gradient, usual, exact in zip(ours, plain, gradients(truth, exact_batch, exact_head), strict=True):
        assert (gradient - exact).abs().max() <= 2 * (usual - exact).abs().max() + 1e-6 * exact.abs().max()


def test_the_module_is_the_function_with_its_options(batch) -> None:
    options = {"form": "squared", "beta": 0.4, "average": True, "softcap": 5.0, "scale": 2.0, "temperature": 0.8}
    target = torch.tensor([0.1, 0.2, 0.3, 0.4])
    module = LinearPreferenceLoss(**options, label_smoothing=0.1, workspace_mb=64, save=False)
    ours = module(**batch, target=target, denominator=10)
    expected = linear_preference_loss(**batch, **options, target=target, label_smoothing=0.1, denominator=10)
    assert torch.equal(ours.loss, expected.loss)
    assert torch.equal(torch.stack(ours.sums), torch.stack(expected.sums))
    smoother = module(**batch, target=target, label_smoothing=torch.full((4,), 0.3))
    assert smoother.loss != module(**batch, target=target).loss


def test_the_module_is_a_loss_of_ln_2_where_policy_and_reference_agree(batch) -> None:
    module = LinearPreferenceLoss()
    batch["ref_logps"] = module(**batch).sequence_logps
    batch["pair_weights"] = torch.ones(4)
    assert module(**batch).loss.item() == pytest.approx(0.6931472, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"form": "dpo"},
        {"beta": -1.0},
        {"label_smoothing": 1.0},
        {"softcap": 0.0},
        {"scale": 0.0},
        {"temperature": 1e-50},
        {"workspace_mb": 0},
        {"save": "always"},
    ],
)
def test_the_module_refuses_options_when_it_is_made(options) -> None:
    with pytest.raises(ValueError, match="pass"):
        LinearPreferenceLoss(**options)


def test_options_are_refused_before_any_work(batch) -> None:
    batch["hidden"] = torch.empty(0)
    with pytest.raises(ValueError, match="form is 'dpo'"):
        linear_preference_loss(**batch, form="dpo")


def test_masked_labels_are_not_counted() -> None:
    labels = torch.tensor([5, -100, 7, -100, -100, 1])
    assert supervised_lengths(labels, torch.tensor([0, 3, 3, 5, 6])).tolist() == [2, 0, 0, 1]


@pytest.mark.slow
def test_triton_and_pytorch_agree(batch, device) -> None:
    on_device = {name: value.to(device) for name, value in batch.items()}
    loss = linear_preference_loss(**differentiable(on_device), average=True, form="squared").loss
    truth = naive_loss(doubled(batch), {}, {"average": True, "form": "squared"})
    assert (loss.cpu() - truth).abs() <= 5e-6 * (1 + truth.abs())


@pytest.mark.slow
def test_ten_lengths_compile_once(batch) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(linear_preference_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for tokens in range(3, 13):
            hidden = torch.randn(4 * tokens, FEATURES, requires_grad=True)
            labels = torch.randint(0, VOCAB, (4 * tokens,))
            segments = torch.arange(5) * tokens
            loss = compiled(hidden, batch["head_weight"], labels, segments, average=True).loss
            (gradient,) = torch.autograd.grad(loss, hidden)
            expected = linear_preference_loss(hidden, batch["head_weight"], labels, segments, average=True).loss
            assert torch.equal(loss, expected)
            assert torch.equal(gradient, torch.autograd.grad(expected, hidden)[0])


@pytest.mark.parametrize("average", [True, False])
def test_labels_that_are_all_served_need_not_be_counted(batch, device, monkeypatch, average) -> None:
    labels = torch.tensor([3, 7, 2, 2, 9, 1, 4, 5], device=device)
    hidden = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    weight = torch.randn(11, 6, generator=torch.Generator().manual_seed(1)).to(device)
    segments = torch.tensor([0, 3, 5, 6, 8], device=device)
    expected = linear_preference_loss(hidden, weight, labels, segments, average=average)
    monkeypatch.setattr(torch.Tensor, "nonzero", lambda self: pytest.fail("the labels were counted"))
    found = linear_preference_loss(hidden, weight, labels, segments, average=average, all_served=True)
    module = LinearPreferenceLoss(average=average)(hidden, weight, labels, segments, all_served=True)
    assert torch.equal(found.loss, expected.loss) and torch.equal(module.loss, expected.loss)
    (ours,) = torch.autograd.grad(found.loss, hidden)
    (theirs,) = torch.autograd.grad(expected.loss, hidden)
    assert torch.equal(ours, theirs)
