"""How the operators behave beside other parts of PyTorch: vmap, DTensors, FLOP counter, FSDP2's casts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import iwpo_kernels.flops  # noqa: F401  what the counter reads
from iwpo_kernels import linear_token_logps, linear_token_statistics, token_logps, weighted_preference_loss

T, H, V = 6, 8, 130


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(T, H, generator=generator), torch.randn(V, H, generator=generator)
    return hidden, weight, torch.randint(V, (T,), generator=generator)


def test_vmap_is_refused_by_a_sentence_of_every_operator() -> None:
    hidden, weight, labels = tensors()
    with pytest.raises(ValueError, match=r"linear_token_logps does not run under torch\.vmap: put the batch's tokens"):
        torch.vmap(lambda h, y: linear_token_logps(h, weight, y))(hidden[None], labels[None])
    with pytest.raises(ValueError, match=r"token_logps does not run under torch\.vmap"):
        torch.vmap(token_logps)((hidden @ weight.T)[None], labels[None])
    logps, segments = torch.randn(1, 4), torch.tensor([0, 2, 4])
    with pytest.raises(ValueError, match=r"weighted_preference_loss does not run under torch\.vmap"):
        torch.vmap(lambda one: weighted_preference_loss(one, segments).loss)(logps)


def test_a_head_of_which_a_rank_holds_a_part_is_refused() -> None:
    hidden, weight, labels = tensors()

    class Part(torch.Tensor):
        def full_tensor(self) -> torch.Tensor:
            return self

    with pytest.raises(TypeError, match=r"head_weight is a DTensor.* pass head_weight.full_tensor\(\)"):
        linear_token_logps(hidden, weight.as_subclass(Part), labels)


@pytest.mark.parametrize(
    ("trains_hidden", "trains_head", "save", "products"),
    [
        (False, False, True, 1),
        (True, False, True, 2),
        (True, True, True, 3),
        (True, True, False, 4),
        (False, True, True, 2),
    ],
)
def test_the_flop_counter_counts_the_products_of_the_docstring(trains_hidden, trains_head, save, products) -> None:
    hidden, weight, labels = tensors()
    hidden.requires_grad_(trains_hidden)
    weight.requires_grad_(trains_head)
    with FlopCounterMode(display=False) as counter:
        logps = linear_token_logps(hidden, weight, labels, save=save)
        if logps.requires_grad:
            logps.sum().backward()
    assert counter.get_total_flops() == products * 2 * T * V * H


def test_the_flop_counter_counts_statistics_as_log_probs() -> None:
    with FlopCounterMode(display=False) as counter:
        linear_token_statistics(*tensors())
    assert counter.get_total_flops() == 2 * T * V * H


@pytest.mark.parametrize("name", ["ref_logps", "pair_weights"])
def test_what_a_sharded_module_has_rounded_is_named_with_the_setting_that_keeps_it(name) -> None:
    rounded = torch.zeros(2 if name == "ref_logps" else 1, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=rf"{name} is torch.bfloat16.*cast_forward_inputs=False"):
        weighted_preference_loss(torch.zeros(4), torch.tensor([0, 2, 4]), **{name: rounded})
