"""`linear_token_logps` against its float64 specification: the PyTorch path, and the Triton kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from linear_cases import Case, assert_exact, capped, certain, random_case, repeated, run, shrink_tiles

from iwpo_kernels.linear_token_logps import (
    linear_token_logps,
    linear_token_statistics,
    naive_linear_token_logps,
    naive_linear_token_statistics,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_tiles(monkeypatch)


@pytest.fixture(params=["pytorch", "kernels"])
def place(request: pytest.FixtureRequest) -> torch.device:
    """A CPU with the PyTorch path, and where the Triton kernels run."""
    return torch.device("cpu") if request.param == "pytorch" else request.getfixturevalue("device")


@pytest.mark.parametrize("dtype", DTYPES)
def test_frozen_head_gives_hidden_its_gradient(place: torch.device, dtype: torch.dtype) -> None:
    case = replace(repeated(capped(random_case())), frozen=("weight",))
    assert assert_exact(case, dtype, place).grads.keys() == {"hidden"}


@pytest.mark.parametrize("frozen", [("hidden",), ("hidden", "bias"), ("hidden", "weight"), ("weight",), ("bias",)])
@pytest.mark.parametrize("save", [True, False])
def test_gradients_do_not_depend_on_who_else_needs_one(
    place: torch.device, frozen: tuple[str, ...], save: bool
) -> None:
    case = repeated(random_case(bias=True))
    everything = run(linear_token_logps, case, torch.float32, place, save=save)
    some = run(linear_token_logps, replace(case, frozen=frozen), torch.float32, place, save=save)
    assert some.grads.keys() == everything.grads.keys() - set(frozen)
    assert all(torch.equal(grad, everything.grads[name]) for name, grad in some.grads.items())
    assert torch.equal(some.values.logps, everything.values.logps)


def test_nothing_requires_grad_where_nothing_may(place: torch.device) -> None:
    case = random_case()
    tensors = [tensor.to(place) for tensor in (case.hidden, case.weight, case.labels)]
    logps = linear_token_logps(*tensors)
    with torch.no_grad():
        tensors[0].requires_grad_()
        unrecorded = linear_token_logps(*tensors)
    assert not logps.requires_grad and not unrecorded.requires_grad
    assert torch.equal(logps, unrecorded)


def test_certain_label_keeps_relative_precision(place: torch.device) -> None:
    case = certain(random_case(spread=0.1))
    ours = run(linear_token_logps, case, torch.float32, place)
    truth = run(naive_linear_token_logps, case, torch.float64)
    assert (truth.values.logps > -1e-8).all()
    torch.testing.assert_close(ours.values.logps, truth.values.logps, rtol=1e-4, atol=0)
    torch.testing.assert_close(ours.grads["hidden"], truth.grads["hidden"], rtol=1e-3, atol=1e-15)


def test_label_without_rivals_has_log_prob_zero(place: torch.device) -> None:
    """Every other logit is −∞, also in slices that have nothing else."""
    case = random_case(tokens=3)
    bias = torch.full((len(case.weight),), -torch.inf)
    labels = torch.full((3,), 60)
    bias[60] = 0.0
    case = replace(case, bias=bias, labels=labels, grad=case.grad[:3])
    result = run(linear_token_logps, case, torch.float32, place)
    assert (result.values.logps.abs() < 1e-37).all()
    assert (result.grads["hidden"].abs() < 1e-37).all()
    assert (result.values.entropy.abs() < 1e-35).all() and result.values.target_is_argmax.all()


def peaked_beside_flat() -> Case:
    """One token's other mass sits in one logit of 30; the other's reference lies 8 nats below 284 equal rivals."""
    case = random_case(tokens=2, features=16, vocab=300, bias=True, spread=0.01)
    case.hidden.copy_(torch.eye(16)[:2])
    case.weight[5, 0], case.weight[:16, 1] = 30.0, -7.9
    assert case.bias is not None
    return replace(case, labels=torch.tensor([250, 251]), grad=torch.ones(2), bias=case.bias / 100)


@pytest.mark.parametrize(
    ("size", "grads"), [(1.0, (1.0, 1.0)), (1.0, (1.0, 1000.0)), (1000.0, (1.0, 1.0)), (1000.0, (3e4, 16.0))]
)
@pytest.mark.parametrize("save", [True, False])
def test_a_flat_token_keeps_its_bits_beside_a_peaked_one(
    place: torch.device, save: bool, size: float, grads: tuple[float, float]
) -> None:
    """Also where hidden state and gradient of the peaked one are far larger, or smaller."""
    case = peaked_beside_flat()
    case.hidden[0] *= size
    case.weight[:, 0] /= size
    assert_exact(replace(case, grad=torch.tensor(grads)), torch.float16, place, save=save)


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float32, torch.nan), (torch.float16, torch.inf), (torch.bfloat16, torch.inf)]
)
@pytest.mark.parametrize("save", [True, False])
def test_a_token_without_a_gradient_cannot_spread_what_is_not_finite(
    place: torch.device, save: bool, dtype: torch.dtype, value: float
) -> None:
    """0 · NaN counts as 0: what such tokens would add to the gradients of others, and of their own row."""
    several = repeated(capped(random_case(bias=True)))  # a softcap makes logits of infinity finite
    for case, poison in ((random_case(bias=True), value), (several, torch.nan)):
        row = 4  # hidden state of one token, whose label is that of no other
        tokens = torch.tensor([row]) if case.hidden_index is None else (case.hidden_index == row).nonzero()[:, 0]
        case = replace(case, grad=case.grad.index_fill(0, tokens, 0.0), labels=case.labels.clamp(min=0))
        clean = run(linear_token_logps, case, dtype, place, save=save)
        case.hidden[row, 3] = poison
        ours = run(linear_token_logps, case, dtype, place, save=save)
        assert ours.values.logps[tokens].isnan().all()
        assert all(torch.equal(grad, clean.grads[name]) for name, grad in ours.grads.items())


def test_a_wide_softcap_leaves_ordinary_logits_their_digits(place: torch.device) -> None:
    """Where the cap is 1000, tanh is taken of thousandths."""
    assert_exact(replace(random_case(spread=3.0), settings={"softcap": 1000.0}), torch.float32, place)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30, torch.inf])
def test_any_size_of_gradient_comes_through(place: torch.device, size: float) -> None:
    """Weight and bias receive it times a constant: zeros stay zeros, and what is not finite is not hidden."""
    case = random_case(bias=True)
    unit = run(linear_token_logps, case, torch.float32, place).grads
    ours = run(linear_token_logps, replace(case, grad=case.grad * size), torch.float32, place).grads
    for name, grad in ours.items():
        if size == torch.inf:
            assert not grad.isfinite().any()
        else:
            torch.testing.assert_close(grad, unit[name] * size, rtol=1e-4, atol=1e-6 * size)


def test_features_beyond_one_block(place: torch.device) -> None:
    assert_exact(repeated(random_case(features=45, vocab=35)), torch.float32, place)


def test_single_token(place: torch.device) -> None:
    assert_exact(random_case(tokens=1, vocab=2), torch.float32, place)


def test_no_tokens(place: torch.device) -> None:
    case = random_case()
    case = replace(case, hidden_index=torch.empty(0, dtype=torch.int64), labels=case.labels[:0], grad=case.grad[:0])
    result = run(linear_token_logps, case, torch.float32, place)
    assert result.values.logps.shape == (0,)
    assert all(grad.eq(0).all() for grad in result.grads.values())


def test_skipped_tokens_change_nothing(place: torch.device) -> None:
    """Also where the gradient of their log-prob is not a number."""
    case = random_case(tokens=9)
    kept = torch.tensor([0, 2, 5, 8])
    labels = torch.full_like(case.labels, -100).index_put((kept,), case.labels[kept])
    grad = torch.full_like(case.grad, torch.nan).index_put((kept,), case.grad[kept])
    skipping = run(linear_token_logps, replace(case, labels=labels, grad=grad), torch.float32, place)
    chosen = replace(case, labels=case.labels[kept], grad=case.grad[kept], hidden_index=kept)
    choosing = run(linear_token_logps, chosen, torch.float32, place)
    assert torch.equal(skipping.values.logps[kept], choosing.values.logps)
    assert skipping.values.logps[labels == -100].eq(0).all()
    assert all(torch.equal(skipping.grads[name], grad) for name, grad in choosing.grads.items())


@pytest.mark.parametrize("operator", [linear_token_logps, naive_linear_token_logps])
def test_hidden_states_of_skipped_tokens_are_not_read(place: torch.device, operator: Callable[..., Any]) -> None:
    case = random_case(bias=True)
    labels = case.labels.index_fill(0, torch.tensor([1, 4]), -100)
    poisoned = case.hidden.index_put((torch.tensor([1, 4]),), torch.tensor([[torch.nan], [torch.inf]]))
    clean = run(operator, replace(case, labels=labels), torch.float32, place)
    ours = run(operator, replace(case, labels=labels, hidden=poisoned), torch.float32, place)
    assert all(torch.equal(a, b) for a, b in zip(ours.values, clean.values, strict=True))
    assert all(torch.equal(grad, clean.grads[name]) for name, grad in ours.grads.items())


def test_strides_of_labels_and_index_do_not_matter(place: torch.device) -> None:
    case = random_case()
    tokens = case.labels.shape[0]
    index = torch.arange(tokens).flip(0)
    strided = [torch.stack([plain, torch.zeros_like(plain)], dim=1).to(place)[:, 0] for plain in (case.labels, index)]

    def results(labels: torch.Tensor, hidden_index: torch.Tensor) -> list[torch.Tensor]:
        leaves = [tensor.to(place).detach().requires_grad_() for tensor in (case.hidden, case.weight)]
        logps = linear_token_logps(*leaves, labels, hidden_index=hidden_index)
        return [logps, *torch.autograd.grad(logps.sum(), leaves)]

    assert not any(tensor.is_contiguous() for tensor in strided)
    for ours, theirs in zip(results(*strided), results(case.labels.to(place), index.to(place)), strict=True):
        assert torch.equal(ours, theirs)


def test_strides_do_not_matter(place: torch.device) -> None:
    case = random_case()
    plain = [tensor.to(place) for tensor in (case.hidden, case.weight)]
    wide = torch.stack([plain[0], plain[0]], dim=2)[..., 0]
    cases = [(wide, plain[1]), (plain[0].t().contiguous().t(), plain[1].t().contiguous().t())]
    labels = case.labels.to(place)

    def grads(hidden: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        leaves = [hidden.detach().requires_grad_(), weight.detach().requires_grad_()]
        return list(torch.autograd.grad(linear_token_logps(*leaves, labels).sum(), leaves))

    expected = grads(*plain)
    for hidden, weight in cases:
        assert not (hidden.is_contiguous() and weight.is_contiguous())
        for ours, theirs in zip(grads(hidden, weight), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("no_help_to_repeat")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("save", [True, False])
def test_runs_repeat_bitwise(place: torch.device, dtype: torch.dtype, save: bool) -> None:
    case = repeated(capped(random_case(bias=True)))
    first, second = (run(linear_token_logps, case, dtype, place, save=save) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.values, second.values, strict=True))
    assert all(torch.equal(grad, second.grads[name]) for name, grad in first.grads.items())


def test_tied_weight_gets_both_gradients(place: torch.device) -> None:
    case = random_case()
    tied = case.weight.to(place).requires_grad_()
    ids, labels = torch.tensor([3, 3, 7], device=place), torch.tensor([3, 50, 66], device=place)
    (ours,) = torch.autograd.grad(linear_token_logps(tied[ids], tied, labels).sum(), tied)
    (truth,) = torch.autograd.grad(naive_linear_token_logps(tied[ids], tied, labels).sum(), tied)
    torch.testing.assert_close(ours, truth)


def test_autocast_casts_as_for_a_linear_layer_and_does_not_round_inside(place: torch.device) -> None:
    case = random_case()
    hidden, weight, labels = (tensor.to(place) for tensor in (case.hidden, case.weight, case.labels))
    leaf = weight.requires_grad_()
    expected = linear_token_logps(hidden.half(), leaf, labels)
    with torch.autocast(place.type, dtype=torch.float16):
        logps = linear_token_logps(hidden, leaf, labels)
        (grad,) = torch.autograd.grad(logps.sum(), leaf)
    assert logps.dtype == torch.float32
    assert torch.equal(logps, expected)
    assert torch.equal(grad, torch.autograd.grad(expected.sum(), leaf)[0])


def test_autocast_leaves_float64_and_gives_gradients_in_the_types_of_the_inputs() -> None:
    case = random_case()
    hidden, weight = case.hidden.double(), case.weight.double()
    leaves = [case.hidden.requires_grad_(), case.weight.bfloat16().requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = linear_token_logps(hidden, weight, case.labels)
        gradients = torch.autograd.grad(linear_token_logps(*leaves, case.labels).sum(), leaves)
    assert torch.equal(exact, linear_token_logps(hidden, weight, case.labels))
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.bfloat16]


def test_batches_of_sequences_give_results_of_the_labels_shape(place: torch.device) -> None:
    case = random_case()
    hidden, weight, labels = (tensor.to(place) for tensor in (case.hidden, case.weight, case.labels))
    rows = labels.shape[0] // 2 * 2
    hidden, labels = hidden[:rows].requires_grad_(), labels[:rows].clone()
    labels[1] = -100
    flat = linear_token_statistics(hidden, weight, labels, log_sum_exp=True)
    shaped = linear_token_statistics(hidden.view(2, rows // 2, -1), weight, labels.view(2, -1), log_sum_exp=True)
    for one, other in zip(shaped, flat, strict=True):
        assert one.shape == (2, rows // 2)
        assert torch.equal(one.flatten(), other)
    (gradient,) = torch.autograd.grad(shaped.logps.sum(), hidden)
    assert torch.equal(gradient, torch.autograd.grad(flat.logps.sum(), hidden)[0])


def test_log_sum_exp_and_its_gradients_are_those_of_all_logits(place: torch.device) -> None:
    case = replace(repeated(random_case()), settings={"softcap": 2.0, "scale": 0.7, "temperature": 1.3})
    labels = case.labels.masked_fill(case.hidden_index == case.hidden_index[2], -100)
    case.hidden[case.hidden_index[2]] = torch.nan
    bias = torch.randn(67, generator=torch.Generator().manual_seed(1))
    given = {"hidden_index": case.hidden_index.to(place), "log_sum_exp": True, **case.settings}
    results = []
    for operator in (linear_token_statistics, naive_linear_token_statistics):
        leaves = [tensor.to(place).requires_grad_() for tensor in (case.hidden, case.weight, bias)]
        found = operator(leaves[0], leaves[1], labels.to(place), bias=leaves[2], **given)
        results.append((found.log_sum_exp, *torch.autograd.grad(found.log_sum_exp.square().sum(), leaves)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert results[0][0][2] == 0


def test_backward_can_be_repeated(place: torch.device) -> None:
    case = random_case()
    leaves = [case.hidden.to(place).requires_grad_(), case.weight.to(place).requires_grad_()]
    total = linear_token_logps(*leaves, case.labels.to(place), save=True).sum()
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(total, leaves), strict=True))


def test_float64_passes_gradcheck() -> None:
    case = replace(repeated(random_case(features=5)), settings={"softcap": 2.0, "scale": 0.7})
    bias = torch.randn(67, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    leaves = (case.hidden.double().requires_grad_(), case.weight.double().requires_grad_(), bias)
    for save in (True, False):

        def operator(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, save: bool = save) -> torch.Tensor:
            return linear_token_logps(
                hidden, weight, case.labels, bias=bias, hidden_index=case.hidden_index, save=save, **case.settings
            )

        assert torch.autograd.gradcheck(operator, leaves, fast_mode=True)


@pytest.mark.gpu
def test_float64_on_a_gpu_is_refused() -> None:
    hidden, weight = (torch.zeros(2, 4, device="cuda", dtype=torch.float64) for _ in range(2))
    with pytest.raises(ValueError, match="float64 on a CPU"):
        linear_token_logps(hidden, weight, torch.zeros(2, device="cuda", dtype=torch.int64))
