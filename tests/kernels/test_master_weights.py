"""A float32 head beside 16-bit hidden states: products round it, and nothing rounds its gradient."""

from __future__ import annotations

import pytest
import torch
from linear_cases import capped, random_case, repeated, shrink_tiles
from torch import Tensor

from iwpo_kernels.linear_token_logps import linear_token_logps, naive_linear_token_logps


@pytest.fixture(params=["pytorch", "kernels"])
def place(request: pytest.FixtureRequest) -> torch.device:
    return torch.device("cpu") if request.param == "pytorch" else request.getfixturevalue("device")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_tiles(monkeypatch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("save", [True, False])
def test_results_are_those_of_the_rounded_head_and_its_gradient_is_finer(
    place: torch.device, dtype: torch.dtype, save: bool
) -> None:
    case = repeated(capped(random_case(bias=True)))
    assert case.bias is not None and case.hidden_index is not None
    index, labels, grad = (tensor.to(place) for tensor in (case.hidden_index, case.labels, case.grad))

    def results(*leaves: Tensor, exact: bool = False) -> tuple[Tensor, ...]:
        leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
        options = {} if exact else {"save": save}
        operator = naive_linear_token_logps if exact else linear_token_logps
        logps = operator(*leaves[:2], labels, bias=leaves[2], hidden_index=index, **case.settings, **options)
        return (logps.detach(), *torch.autograd.grad(logps, leaves, grad.to(logps.dtype)))

    hidden = case.hidden.to(place, dtype)
    master, bias = case.weight.to(place), case.bias.to(place)
    rounded, narrow_bias = master.to(dtype), bias.to(dtype)
    ours = results(hidden, master, narrow_bias.float())
    narrow = results(hidden, rounded, narrow_bias)
    truth = results(hidden.double(), rounded.double(), narrow_bias.double(), exact=True)
    for found, expected in zip(ours[:2], narrow[:2], strict=True):
        assert torch.equal(found, expected)
    assert ours[2].dtype == ours[3].dtype == torch.float32
    for found, other, true in zip(ours[2:], narrow[2:], truth[2:], strict=True):
        assert (found - true).norm() <= (other - true).norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_specification_rounds_the_head_too(dtype: torch.dtype) -> None:
    case = random_case()
    hidden, master = case.hidden.to(dtype), case.weight
    wide = naive_linear_token_logps(hidden, master, case.labels)
    assert torch.equal(wide, naive_linear_token_logps(hidden, master.to(dtype), case.labels))


def test_a_16_bit_head_beside_float32_hidden_states_is_refused() -> None:
    case = random_case()
    with pytest.raises(ValueError, match="cast one of them"):
        linear_token_logps(case.hidden, case.weight.bfloat16(), case.labels)
