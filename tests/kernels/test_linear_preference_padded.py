"""Padded batches, against Liger's fused DPO loss called in the same way."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from iwpo_fast.objectives.pair import Pair, Side
from iwpo_fast.objectives.registry import OBJECTIVES
from iwpo_kernels import LinearPreferenceLoss, PaddedLinearPreferenceLoss, padded_segments
from iwpo_kernels.linear_preference.reward_losses import LOSSES, READ_SMOOTHING, Settings, pair_losses

PAIRS, LENGTH, FEATURES, VOCAB = 4, 11, 16, 53


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Prompts of 3 tokens, padding at the right."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    target = torch.randint(0, VOCAB, (2 * PAIRS, LENGTH), generator=generator)
    target[:, :3] = -100
    target[1, 8:] = -100
    target[6, 4:] = -100
    return {
        "lin_weight": 0.4 * normal(VOCAB, FEATURES),
        "_input": normal(2 * PAIRS, LENGTH, FEATURES),
        "target": target,
        "bias": 0.3 * normal(VOCAB),
        "ref_input": normal(2 * PAIRS, LENGTH, FEATURES + 2),
        "ref_weight": 0.4 * normal(VOCAB, FEATURES + 2),
        "ref_bias": 0.3 * normal(VOCAB),
    }


def without_reference(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if not name.startswith("ref_")}


def results(loss_fn: torch.nn.Module, batch: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Loss, gradients of head, hidden states and bias, metrics."""
    inputs = [batch[name].clone().requires_grad_() for name in ("lin_weight", "_input", "bias")]
    loss, metrics = loss_fn(**batch | dict(zip(("lin_weight", "_input", "bias"), inputs, strict=True)))
    return loss.detach(), torch.autograd.grad(loss, inputs), metrics


SMOOTHED = {"exo_pair": {"label_smoothing": 1e-2}, "robust": {"label_smoothing": 0.1}}
LIGERS = ("sigmoid", "hinge", *LOSSES)


@pytest.mark.parametrize("loss_type", LIGERS)
@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.05},
        {"average_log_prob": True, "beta": 2.0},
        {"compute_nll_loss": True, "alpha": 0.7},
        {"use_ref_model": False, "beta": 0.5},
    ],
    ids=str,
)
def test_loss_gradients_and_metrics_equal_those_of_liger(batch, loss_type, options) -> None:
    liger = pytest.importorskip("liger_kernel.chunked_loss")
    if not options.get("use_ref_model", True):
        batch = without_reference(batch)
    options = options | SMOOTHED.get(loss_type, {})
    theirs = results(liger.LigerFusedLinearDPOLoss(loss_type=loss_type, compiled=False, **options), batch)
    ours = results(PaddedLinearPreferenceLoss(loss_type=loss_type, **options), batch)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    for our_gradient, their_gradient in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-5, atol=1e-5)
    for our_metric, their_metric in zip(ours[2], theirs[2], strict=True):
        torch.testing.assert_close(our_metric, their_metric, rtol=1e-5, atol=1e-5)


def test_metrics_carry_no_gradient(batch) -> None:
    metrics = results(PaddedLinearPreferenceLoss(compute_nll_loss=True), batch)[2]
    assert not any(value.requires_grad for value in metrics)


def test_cached_reference_log_probs_are_as_good_as_the_reference_model(batch) -> None:
    with_model = results(PaddedLinearPreferenceLoss(), batch)
    reference = LinearPreferenceLoss()(
        batch["ref_input"].flatten(0, 1),
        batch["ref_weight"],
        batch["target"].flatten(),
        padded_segments(batch["target"]),
        bias=batch["ref_bias"],
    )
    cached = without_reference(batch) | {"ref_logps": reference.sequence_logps}
    torch.testing.assert_close(results(PaddedLinearPreferenceLoss(), cached), with_model)


@pytest.mark.parametrize("average", [False, True])
def test_ipo_with_weights_and_smoothing_is_the_flat_loss_of_the_completions(batch, average) -> None:
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0])
    loss_fn = PaddedLinearPreferenceLoss(loss_type="ipo", beta=0.3, label_smoothing=0.2, average_log_prob=average)
    loss, _ = loss_fn(**without_reference(batch), ref_logps=torch.full((8,), -20.0), pair_weights=weights)
    kept = batch["target"] != -100
    flat = LinearPreferenceLoss(form="squared", beta=0.3, label_smoothing=0.2, average=average)(
        batch["_input"].flatten(0, 1),
        batch["lin_weight"],
        batch["target"][kept],
        torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)]),
        torch.full((8,), -20.0),
        weights,
        bias=batch["bias"],
        hidden_index=kept.flatten().nonzero()[:, 0],
    )
    torch.testing.assert_close(loss, flat.loss)


def test_the_ignored_label_can_be_another(batch) -> None:
    batch["target"] = batch["target"].where(batch["target"] != 0, 1)
    expected = results(PaddedLinearPreferenceLoss(), batch)
    batch["target"] = batch["target"].masked_fill(batch["target"] == -100, 0)
    torch.testing.assert_close(results(PaddedLinearPreferenceLoss(ignore_index=0), batch), expected)


def test_labels_of_minus_100_are_ignored_beside_another(batch) -> None:
    batch["target"] = batch["target"].where(batch["target"] != 0, 1)
    expected = results(PaddedLinearPreferenceLoss(), batch)
    batch["target"][:, 0] = 0
    assert (batch["target"] == -100).any()
    torch.testing.assert_close(results(PaddedLinearPreferenceLoss(ignore_index=0), batch), expected)


def test_mean_logits_are_not_rounded_under_autocast(batch) -> None:
    expected = results(PaddedLinearPreferenceLoss(), batch)[2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metrics = results(PaddedLinearPreferenceLoss(), batch)[2]
    for name in ("chosen_logits_mean", "rejected_logits_mean"):
        assert torch.equal(getattr(metrics, name), getattr(expected, name))


def test_metrics_read_the_head_once(batch) -> None:
    means: list[tuple[int, ...]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.mean.dim:
                means.append(tuple(args[0].shape))
            return func(*args, **kwargs or {})

    loss_fn, inputs = PaddedLinearPreferenceLoss(), without_reference(batch) | {"ref_logps": torch.zeros(2 * PAIRS)}
    with Watch():
        loss_fn(**inputs)
    assert means.count((VOCAB, FEATURES)) == 1
    assert means.count((PAIRS, LENGTH, FEATURES)) == 2


def test_autocast_casts_hidden_states_and_head_like_a_linear_layer(batch) -> None:
    cast = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    expected, _ = PaddedLinearPreferenceLoss()(**cast)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = PaddedLinearPreferenceLoss()(**batch | {"_input": cast["_input"]})
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_a_completion_without_tokens_has_log_prob_0_and_no_gradient(batch) -> None:
    batch["target"][2] = -100
    loss, (_, grad_hidden, _), metrics = results(PaddedLinearPreferenceLoss(average_log_prob=True), batch)
    assert loss.isfinite()
    assert metrics.chosen_logps[2] == 0
    assert (grad_hidden[2] == 0).all()


BAD_CALLS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no reference": ({}, {"ref_input": None}, "use_ref_model is True but no reference is given"),
    "two references": ({}, {"ref_logps": torch.zeros(8)}, "both ref_logps and a reference model are given"),
    "needless reference": ({"use_ref_model": False}, {}, "a reference is given but use_ref_model is False"),
    "flat hidden": ({}, {"_input": torch.zeros(8, 16)}, r"_input has shape \[8, 16\]: pass \[2B, T, H\]"),
    "odd batch": ({}, {"_input": torch.zeros(7, 11, 16)}, r"_input has shape \[7, 11, 16\]"),
    "target shape": ({}, {"target": torch.zeros(8, 10).long()}, r"target has shape \[8, 10\]"),
    "reference shape": ({}, {"ref_input": torch.zeros(8, 10, 18)}, r"ref_input has shape \[8, 10, 18\]"),
}


@pytest.mark.parametrize(("options", "changes", "sentence"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_calls_that_do_not_fit_say_what_to_pass(batch, options, changes, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        PaddedLinearPreferenceLoss(**options)(**batch | changes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss_type": "simpo"}, "loss_type is 'simpo': pass one of sigmoid, hinge, ipo, exo_pair"),
        ({"beta": 0.0}, "beta is 0"),
        ({"loss_type": "exo_pair"}, "exo_pair needs a label_smoothing above 0"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "robust is defined below 0.5"),
        ({"loss_type": "discopop", "discopop_tau": 0.0}, "discopop_tau is 0"),
    ],
)
def test_options_out_of_range_are_refused_when_it_is_made(options, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        PaddedLinearPreferenceLoss(**options)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_of_rewards_are_the_objectives_of_the_same_name(loss_type) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (3 * torch.randn(64, generator=generator, dtype=torch.float64) for _ in range(2))
    beta, epsilon, tau = 0.4, 0.05, 0.3
    objective = OBJECTIVES[loss_type]
    parameters = {"beta": beta, "epsilon": epsilon, "tau": tau}
    parameters = {name: value for name, value in parameters.items() if name in objective.parameters}
    one = torch.ones(64)
    pair = Pair(*(Side(logp=reward / beta, tokens=one, ref_logp=0 * reward) for reward in (chosen, rejected)))
    losses = pair_losses(loss_type, chosen, rejected, Settings(beta, epsilon, tau))
    expected = objective.loss(pair, **parameters)
    if loss_type not in READ_SMOOTHING:
        expected = (1 - epsilon) * expected + epsilon * objective.flipped_loss(pair, **parameters)
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("loss_type", ["apo_down", "discopop"])
def test_weights_multiply_losses_of_rewards_and_a_weight_of_0_leaves_its_pair_out(batch, loss_type) -> None:
    loss_fn = PaddedLinearPreferenceLoss(loss_type=loss_type, use_ref_model=False)
    batch = without_reference(batch)
    ones = results(loss_fn, batch | {"pair_weights": torch.ones(PAIRS)})
    torch.testing.assert_close(ones, results(loss_fn, batch))
    weighted = results(loss_fn, batch | {"pair_weights": torch.tensor([0.0, 3.0, 0.0, 0.0])})
    alone = [1, 1 + PAIRS]
    single = results(loss_fn, batch | {"_input": batch["_input"][alone], "target": batch["target"][alone]})
    torch.testing.assert_close(weighted[0], single[0] * 3 / PAIRS)
    torch.testing.assert_close(weighted[1][0], single[1][0] * 3 / PAIRS)
    batch["_input"][0] = torch.inf
    assert results(loss_fn, batch | {"pair_weights": torch.tensor([0.0, 3.0, 0.0, 0.0])})[0].isfinite()


def test_keywords_of_liger_without_effect_are_named_once() -> None:
    with pytest.warns(UserWarning, match="compiled and chunk_size have no effect"):
        PaddedLinearPreferenceLoss(-100, 0.1, chunk_size=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PaddedLinearPreferenceLoss(chunk_size=7)
        PaddedLinearPreferenceLoss()


def test_the_constructor_is_ligers() -> None:
    liger = pytest.importorskip("liger_kernel.chunked_loss")
    ours, theirs = (
        inspect.signature(loss_fn.__init__).parameters.values()
        for loss_fn in (PaddedLinearPreferenceLoss, liger.LigerFusedLinearDPOLoss)
    )
    assert [(one.name, one.default) for one in ours] == [(one.name, one.default) for one in theirs]
