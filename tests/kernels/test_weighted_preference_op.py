"""The weighted preference loss as a PyTorch operator: registration, compilation, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from preference_cases import LOSSES, random_case

from iwpo_kernels import PreferenceOutput, weighted_preference_loss
from iwpo_kernels.weighted_preference.op import _backward_op, _forward_op

LENGTHS = (5, 0, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["pytorch", "triton"])
def test_opcheck_passes(path, request) -> None:
    place = torch.device("cpu") if path == "pytorch" else request.getfixturevalue("device")
    case = random_case(LENGTHS).to(place)
    eps = torch.tensor([0.1, 0.2], device=place)
    logps = case.logps.requires_grad_()
    arguments = (logps, case.segments, case.ref_logps, case.weights, None, eps, 0.0, None, 0.5)
    torch.library.opcheck(_forward_op, (*arguments, "sigmoid", 0.1, 0.1, False))
    lengths = torch.tensor([5, 1, 3, 4], device=place)
    absent = (logps, case.segments, None, None, lengths, None, 0.2, eps, 0.0)
    torch.library.opcheck(_forward_op, (*absent, "squared", 1.0, 0.1, True))
    coefficients = torch.randn(4, device=place)
    torch.library.opcheck(_backward_op, (torch.ones((), device=place), coefficients, case.segments, 12))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conservative dpo", "ipo", "reward distillation"])
def test_ten_lengths_compile_once(name) -> None:
    torch._dynamo.reset()

    def loss(logps, segments, ref_logps, weights, denominator, options) -> PreferenceOutput:
        return weighted_preference_loss(logps, segments, ref_logps, weights, denominator=denominator, **options)

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for pairs in range(2, 12):
            options: dict[str, Any] = {
                key: torch.rand(pairs) if isinstance(value, torch.Tensor) else value
                for key, value in LOSSES[name].items()
            }
            case = random_case(range(3, 3 + 2 * pairs), denominator=pairs + 0.5, **options)
            logps = case.logps.requires_grad_()
            output = compiled(logps, case.segments, case.ref_logps, case.weights, pairs + 0.5, options)
            expected, gradient = case.loss_and_gradient()
            assert torch.equal(output.loss, expected)
            assert torch.equal(torch.autograd.grad(output.loss, logps)[0], gradient)


CASE = random_case(LENGTHS)
BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown form": ({"form": "dpo"}, "form is 'dpo': pass one of sigmoid, squared, hinge"),
    "beta 0": ({"beta": 0}, "beta is 0: pass a positive number"),
    "beta NaN": ({"beta": math.nan}, "beta is nan"),
    "smoothing 1": ({"label_smoothing": 1.0}, r"label_smoothing is 1.0: pass a probability in \[0, 1\)"),
    "smoothing negative": ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
    "smoothing of a pair": ({"label_smoothing": torch.tensor([0.0, 1.5])}, r"values outside \[0, 1\)"),
    "smoothing of too few": ({"label_smoothing": torch.zeros(1)}, r"label_smoothing has shape \[1\]: pass \[2\]"),
    "margin of hinge": ({"form": "hinge", "margin": 1.0}, 'form "hinge" has no margin'),
    "margin infinite": ({"margin": math.inf}, "margin is inf: pass a finite number"),
    "target of sigmoid": ({"target": 1.0}, 'form "sigmoid" has no target'),
    "target shape": ({"form": "squared", "target": torch.zeros(2, 1)}, r"target has shape \[2, 1\]"),
    "denominator 0": ({"denominator": 0.0}, "denominator is 0.0: pass a positive number"),
    "denominator vector": ({"denominator": torch.ones(2)}, r"denominator has shape \[2\]"),
    "logps 2-d": ({"logps": CASE.logps[None]}, r"logps has 2 dimensions: pass the supervised tokens end to end, \[N\]"),
    "logps bf16": ({"logps": CASE.logps.bfloat16()}, "logps is torch.bfloat16 on cpu: pass float32"),
    "segments odd": ({"segments": torch.tensor([0, 5, 5, 12])}, r"segments has 4 offsets: pass 2P \+ 1"),
    "segments of no pair": ({"segments": torch.tensor([12])}, "segments has 1 offsets"),
    "segments int32": ({"segments": CASE.segments.int()}, r"segments is torch.int32: pass segments.long\(\)"),
    "segments short": ({"segments": torch.tensor([0, 5, 5, 8, 11])}, "segments run from 0 to 11 and logps has 12"),
    "segments falling": ({"segments": torch.tensor([0, 5, 4, 8, 12])}, "segments decrease"),
    "reference shape": ({"ref_logps": torch.zeros(2)}, r"ref_logps has shape \[2\]: pass \[4\], one per sequence"),
    "reference float64": ({"ref_logps": torch.zeros(4).double()}, r"pass ref_logps.to\(torch.float32\)"),
    "weights shape": ({"pair_weights": torch.ones(4)}, r"weights has shape \[4\]: pass \[2\], one per pair"),
    "weights negative": ({"pair_weights": torch.tensor([1.0, -1.0])}, "negative or non-finite values"),
    "weights infinite": ({"pair_weights": torch.tensor([1.0, math.inf])}, "negative or non-finite values"),
    "weights elsewhere": ({"pair_weights": torch.ones(2, device="meta")}, "weights is on meta"),
    "lengths shape": ({"lengths": torch.ones(3).long(), "average": True}, "lengths has 3 entries for 4 sequences"),
    "lengths negative": ({"lengths": torch.tensor([1, 1, 1, -1]), "average": True}, "lengths hold negative values"),
    "lengths of sums": ({"lengths": torch.ones(4).long()}, "lengths is given without average"),
}


@pytest.mark.parametrize(("changes", "sentence"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_arguments_that_do_not_fit_are_named_with_what_to_pass(changes, sentence) -> None:
    arguments = {"logps": CASE.logps, "segments": CASE.segments, "ref_logps": CASE.ref_logps}
    arguments["pair_weights"] = CASE.weights
    with pytest.raises(ValueError, match=sentence):
        weighted_preference_loss(**(arguments | changes))
