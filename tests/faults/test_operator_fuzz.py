"""The public operators, given right and spoilt arguments: each call computes its formula, or refuses in a sentence.

All on a CPU, in PyTorch. What they are compared with is `naive.py` of each operator, in float64.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from effort import refused_with, tries
from hypothesis import given
from operator_calls import IGNORED, OPERATORS, Call, calls
from sentences import was_raised_in
from torch import Tensor

import iwpo_kernels
from iwpo_kernels import padded_segments, token_logps, weighted_preference_loss
from iwpo_kernels.linear_preference.op import supervised_lengths
from iwpo_kernels.linear_token_logps import TokenStatistics
from iwpo_kernels.linear_token_logps.naive import naive_linear_token_logps, naive_linear_token_statistics
from iwpo_kernels.token_logps.naive import naive_token_logps
from iwpo_kernels.weighted_preference.naive import naive_weighted_preference_loss

SENTENCE = re.compile(r"^[^\n]+: (pass|move|cast|leave|call|use|set) [^\n]+\.$")
OURS = str(Path(iwpo_kernels.__file__).parent)
LINEAR = ("hidden", "head_weight", "labels", "bias", "hidden_index", "softcap", "scale", "temperature")
OF_PAIRS = ("segments", "ref_logps", "pair_weights", "form", "beta", "label_smoothing", "margin", "target", "average")
EXACT = 1e-5
"""Relative error of the operators, which compute in float32 at least."""
LARGEST = 1e4
"""Logits above which numbers of float32 no longer tell their differences, and results are not compared."""


def is_ours(error: BaseException) -> bool:
    """Whether a check of the library raised it, with a sentence that says what to pass."""
    is_check = was_raised_in(OURS, error) and isinstance(error, ValueError | TypeError)
    return is_check and bool(SENTENCE.match(str(error)))


@contextmanager
def unchanged(arguments: dict[str, Any]) -> Iterator[None]:
    """After the body every tensor holds what it held."""
    before = {name: value.detach().clone() for name, value in arguments.items() if isinstance(value, Tensor)}
    yield
    for name, value in before.items():
        if value.device.type == "cpu":
            is_same = torch.equal if not value.is_floating_point() else _equal_bits
            assert is_same(arguments[name].detach().to_dense(), value.to_dense()), f"{name} has changed"


def _equal_bits(first: Tensor, second: Tensor) -> bool:
    return bool((first.double().nan_to_num(7.25) == second.double().nan_to_num(7.25)).all())


@tries(short=100, long=3000)
@given(calls())
def test_an_operator_computes_its_formula_or_says_what_to_pass(call: Call) -> None:
    with unchanged(call.arguments):
        try:
            found = OPERATORS[call.operator](**call.arguments)
        except Exception as error:
            assert is_ours(error), f"{type(error).__name__}: {error}"
            refused_with(error)
            return
        values = _results(found)
        if values[0].device.type == "meta":
            return
        exact = exactly(call.arguments)
        expected, largest = NAIVE[call.operator](**exact)
        has_limits = any(isinstance(value, Tensor) and value.isinf().any() for value in exact.values())
        for ours, theirs in zip(values, expected, strict=True):
            compare(ours, theirs, largest, has_limits=has_limits)
        if values[0].requires_grad and expected[0].isfinite().all() and largest <= LARGEST:
            compare_gradients(call.arguments, exact, values[0], expected[0])


def _results(found: Any) -> list[Tensor]:
    """What is compared: the log-probs or the loss, and of statistics all that ties do not decide."""
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, TokenStatistics):
        return [found.logps, found.entropy, found.sum_p2, found.mean_logit]
    return [found[0]]


def exactly(arguments: dict[str, Any]) -> dict[str, Any]:
    """In float64, each tensor that is differentiated as a leaf; master weights as products round them."""
    exact = {name: _exact(value) for name, value in arguments.items()}
    if is_mixed(arguments):
        weight = arguments["head_weight"]
        rounded = weight.detach().to(arguments["hidden"].dtype).double()
        exact["head_weight"] = rounded.requires_grad_(weight.requires_grad)
    return exact


def is_mixed(arguments: dict[str, Any]) -> bool:
    """Whether there are float32 master weights beside 16-bit hidden states."""
    dtypes = {v.dtype for v in arguments.values() if isinstance(v, Tensor) and v.is_floating_point() and v.ndim > 1}
    return len(dtypes) > 1


def _exact(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if not value.ndim:
        return float(value)
    return value.detach().double().requires_grad_(value.requires_grad)


def compare(found: Tensor, expected: Tensor, largest: float, *, has_limits: bool) -> None:
    """Finite numbers agree, and where the formula has none, none is made up.

    Args:
        has_limits: an argument is infinite, where the operators give some limits that the formula leaves open: a label
            whose logit alone is infinite has the log-prob 0.
    """
    assert found.shape == expected.shape
    if largest > LARGEST:
        return
    expected = expected.detach().to(found.dtype)
    known = expected.isfinite()
    close = torch.isclose(found.detach()[known], expected[known], rtol=10 * EXACT, atol=EXACT * (1 + largest))
    assert close.all(), f"{found} is not {expected}"
    assert has_limits or not found[~known].isfinite().any(), f"{found} is finite where the formula is {expected}"


def compare_gradients(given: dict[str, Any], exact: dict[str, Any], ours: Tensor, theirs: Tensor) -> None:
    names = [name for name, value in exact.items() if isinstance(value, Tensor) and value.requires_grad]
    found = torch.autograd.grad(ours.sum(), [given[name] for name in names], allow_unused=True)
    wanted = torch.autograd.grad(theirs.sum(), [exact[name] for name in names], allow_unused=True)
    for name, gradient, right in zip(names, found, wanted, strict=True):
        if gradient is None or right is None or not right.to(gradient.dtype).isfinite().all():
            continue
        coarse = max(EXACT, 4 * torch.finfo(given[name].dtype).eps)
        size = 1 + float(right.abs().max() if right.numel() else 0)
        assert torch.allclose(gradient.double(), right, rtol=10 * coarse, atol=10 * coarse * size), name


def _largest(*values: Tensor) -> float:
    """Of the finite numbers among these."""
    known = [float(value[value.isfinite()].abs().max()) for value in values if value.isfinite().any()]
    return max(known, default=0.0)


Naive = tuple[list[Tensor], float]
"""Results in float64, and the largest finite logit or log-prob that they come from."""


def _naive_tokens(logits: Tensor, labels: Tensor, temperature: float, **_: Any) -> Naive:
    expected = naive_token_logps(logits, labels, temperature=temperature)
    return [expected], _largest(logits.detach() / temperature)


def _naive_statistics(**given: Any) -> Naive:
    statistics = naive_linear_token_statistics(**{name: value for name, value in given.items() if name in LINEAR})
    return _results(statistics), _largest_logit(**given)


def _naive_linear(**given: Any) -> Naive:
    expected = naive_linear_token_logps(**{name: value for name, value in given.items() if name in LINEAR})
    return [expected], _largest_logit(**given)


def _largest_logit(hidden: Tensor, head_weight: Tensor, bias: Tensor | None = None, **given: Any) -> float:
    """Above the logits: from the largest factors, because a sum may be small and inexact."""
    size = _largest(hidden.detach()) * _largest(head_weight.detach()) * hidden.shape[1]
    size += _largest(bias) if bias is not None else 0.0
    return size * abs(float(given.get("scale", 1.0))) / float(given.get("temperature", 1.0))


def _naive_pairs(logps: Tensor, **given: Any) -> Naive:
    options = {name: value for name, value in given.items() if name in (*OF_PAIRS, "lengths", "denominator")}
    loss = naive_weighted_preference_loss(logps, **options)
    references = [value for name, value in given.items() if name == "ref_logps" and value is not None]
    return [loss], _largest(logps.detach(), *references)


def _naive_linear_pairs(labels: Tensor, segments: Tensor, **given: Any) -> Naive:
    (logps,), largest = _naive_linear(labels=labels, **given)
    lengths = supervised_lengths(labels, segments) if given.get("average") else None
    (loss,), _ = _naive_pairs(logps, segments=segments, lengths=lengths, **given)
    return [loss], largest


def _naive_padded(
    lin_weight: Tensor, _input: Tensor, target: Tensor, bias: Tensor | None = None, **given: Any
) -> Naive:
    labels = target.masked_fill(target == given["ignore_index"], IGNORED)
    hidden = {"hidden": _input.flatten(0, 1), "head_weight": lin_weight, "labels": labels.flatten(), "bias": bias}
    (logps,), largest = _naive_linear(**hidden)
    lengths = (labels != IGNORED).sum(1)
    options = {
        "form": {"ipo": "squared"}.get(given["loss_type"], given["loss_type"]),
        "average": given["average_log_prob"],
        "lengths": lengths if given["average_log_prob"] else None,
    }
    named = {name: given[name] for name in ("beta", "label_smoothing", "ref_logps", "pair_weights") if name in given}
    (loss,), _ = _naive_pairs(logps, segments=padded_segments(labels), **named, **options)
    if given["compute_nll_loss"]:
        chosen = len(labels) // 2
        loss = loss - given["alpha"] * logps.chunk(2)[0].sum() / lengths[:chosen].sum().clamp(min=1)
    return [loss], largest


def _naive_segments(labels: Tensor) -> Naive:
    return [torch.arange(len(labels) + 1) * labels.shape[1]], 0.0


NAIVE: dict[str, Callable[..., Naive]] = {
    "token_logps": _naive_tokens,
    "linear_token_logps": _naive_linear,
    "linear_token_statistics": _naive_statistics,
    "weighted_preference_loss": _naive_pairs,
    "linear_preference_loss": _naive_linear_pairs,
    "LinearPreferenceLoss": _naive_linear_pairs,
    "PaddedLinearPreferenceLoss": _naive_padded,
    "padded_segments": _naive_segments,
}


IMPOSSIBLE = torch.tensor([-1.0, -math.inf])
PAIR = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("form", ["sigmoid", "hinge"])
@pytest.mark.parametrize("smoothing", [None, 0.0, torch.zeros(1)])
def test_a_rejected_completion_that_the_policy_never_gives_costs_nothing(form: Any, smoothing: Any) -> None:
    logps = IMPOSSIBLE.clone().requires_grad_()
    loss = weighted_preference_loss(logps, PAIR, form=form, label_smoothing=smoothing).loss
    assert loss == 0
    assert torch.equal(torch.autograd.grad(loss, logps)[0], torch.zeros(2))


def test_with_label_smoothing_it_costs_without_end() -> None:
    assert weighted_preference_loss(IMPOSSIBLE, PAIR, label_smoothing=0.1).loss == math.inf


def test_a_log_prob_that_is_no_number_stays_none() -> None:
    assert weighted_preference_loss(torch.tensor([-1.0, math.nan]), PAIR).loss.isnan()


def test_an_error_of_pytorch_is_not_ours() -> None:
    with pytest.raises(IndexError) as caught:
        torch.zeros(2)[7]
    assert not is_ours(caught.value)
    with pytest.raises(TypeError) as caught:
        token_logps(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), unknown=1)
    assert not is_ours(caught.value)
