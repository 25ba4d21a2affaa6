"""What `closed` gives the fused kernel computes the loss of the objective's own function."""

from __future__ import annotations

import pytest
import torch
from objective_cases import losses, mixture_of, random_pair, with_logps
from torch import Tensor

from iwpo_fast.objectives import OBJECTIVES, Pair
from iwpo_fast.objectives.registry import Reads
from iwpo_kernels import weighted_preference_loss

CLOSED = sorted(name for name, objective in OBJECTIVES.items() if objective.fused is not None)
SETTINGS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in CLOSED),
    ("d_dpo", {"aggregate": "min"}),
    *(("d_dpo", {"aggregate": how, "strength": 0.7}) for how in ("lcb", "softmin")),
    ("rpo_sq", {"scale": 0.3}),
    ("mmpo", {"scale": 0.3}),
    ("odpo", {"alpha": 0.5}),
]
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.1])
SMOOTHING = torch.tensor([0.0, 0.1, 0.45, 0.3, 0.7, 0.2])


def float32_tokens(pair: Pair) -> tuple[Tensor, Tensor]:
    """Log-probs [N] of tokens whose sums are those of the pairs, and segments [2P + 1]."""
    sides = (pair.chosen, pair.rejected)
    lengths = torch.cat([side.tokens for side in sides]).long()
    means = torch.cat([side.mean_logp for side in sides]).float()
    return means.repeat_interleave(lengths), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def smoothings(name: str) -> list[Tensor | float]:
    return [0.0, 0.2, SMOOTHING] if OBJECTIVES[name].one_sided is None else [0.0]


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_the_fused_kernel_computes_the_function_and_its_gradient(name: str, settings: dict[str, object]) -> None:
    pair, mixture = random_pair(), mixture_of(name, 0.3, **settings)
    tokens, segments = float32_tokens(pair)
    ref_logps = torch.cat([pair.chosen.ref_logp, pair.rejected.ref_logp]).float()
    assert mixture.fused is not None
    reads_scores = Reads.SCORES in OBJECTIVES[name].reads
    arguments = mixture.fused(pair.scores if reads_scores else None)
    arguments = {key: value.float() if isinstance(value, Tensor) else value for key, value in arguments.items()}
    for smoothing in smoothings(name):
        form = {"label_smoothing": smoothing} | arguments
        leaf = tokens.clone().requires_grad_()
        fused = weighted_preference_loss(leaf, segments, ref_logps, WEIGHTS, **form).loss
        (gradient,) = torch.autograd.grad(fused, leaf)

        exact = tokens.double().requires_grad_()
        sums = torch.segment_reduce(exact, "sum", offsets=segments, initial=0.0)
        own = losses(mixture, with_logps(pair, *sums.chunk(2)), smoothing)
        expected = (WEIGHTS * own).mean()
        (expected_gradient,) = torch.autograd.grad(expected, exact)

        torch.testing.assert_close(fused.double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CLOSED)
def test_mixtures_scaled_losses_and_divergences_have_no_closed_form(name: str) -> None:
    assert mixture_of({name: 1.0}).fused is not None
    assert mixture_of({name: 0.5}).fused is None
    assert mixture_of({name: 1.0, "nca_pair": 1.0}).fused is None
    assert mixture_of(name, divergence="js").fused is None
