"""`weighted_preference_loss`: checks, dispatch by device, and registration with PyTorch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from iwpo_kernels.checks import (
    FLOATING,
    check,
    check_device,
    check_first_derivative,
    check_index,
    check_no_tangent,
    check_number,
    check_switch,
    check_tensor,
    refuse_vmap,
)
from iwpo_kernels.devices import checks_labels, runs_triton
from iwpo_kernels.weighted_preference import cpu
from iwpo_kernels.weighted_preference.types import FORMS, Form, PairLoss, PreferenceOutput, PreferenceSums

DIVISORS = (*FLOATING, torch.float64, torch.int32, torch.int64)
"""Types of a denominator."""


def weighted_preference_loss(
    logps: Tensor,
    segments: Tensor,
    ref_logps: Tensor | None = None,
    pair_weights: Tensor | None = None,
    *,
    form: Form = "sigmoid",
    beta: float = 0.1,
    label_smoothing: Tensor | float | None = None,
    margin: Tensor | float | None = None,
    target: Tensor | float | None = None,
    average: bool = False,
    lengths: Tensor | None = None,
    denominator: Tensor | float | None = None,
) -> PreferenceOutput:
    """Importance-weighted preference loss of P pairs, from the log-probs of their tokens.

    With s the log-prob of a sequence minus its reference log-prob, and h = s_chosen − s_rejected,

        loss = Σ_i w_i · [(1 − ε_i) ℓ(h_i) + ε_i ℓ(−h_i)] / denominator

    | form    | ℓ(h)                     | known as |
    |---------|--------------------------|----------|
    | sigmoid | −log σ(beta · h − margin) | DPO (arXiv 2305.18290, eq. 7); with ε cDPO; with a margin ODPO |
    | squared | (h − 1 / (2 beta))²      | IPO (arXiv 2310.12036, eq. 17), together with `average` |
    | squared, with a target | (beta · h − target)² | reward distillation, d-DPO (arXiv 2405.19316, eq. 7) |
    | hinge   | max(0, 1 − beta · h)     | SLiC-HF (arXiv 2305.10425), RSO (arXiv 2309.06657) |

    Sums, margins and losses are computed in float64 and rounded once. One launch goes from token log-probs to the
    loss and gradient of every pair; a sum over pairs follows it. Nothing is read back from a GPU, and runs repeat
    bitwise. Differentiable once, by torch.autograd; not by torch.func.

    Args:
        logps: float32 [N] (float64 too on a CPU), log-probs of the supervised tokens, sequence after sequence.
        segments: int64 [2P + 1], from 0 to N; tokens of sequence s are segments[s] to segments[s + 1], maybe none.
            Sequences 0..P−1 are the chosen ones, P..2P−1 the rejected ones of the same pairs.
        ref_logps: [2P], dtype of logps, reference log-probs summed over tokens. None means 0: no reference.
        pair_weights: w, [P], dtype of logps, at least 0; no gradient reaches them. A pair of weight 0 takes no part in
            loss and gradient, whatever its log-probs. None means 1.
        form: "sigmoid", "squared" or "hinge".
        beta: strength of the pull towards the reference.
        label_smoothing: ε in [0, 1), probability that the label is flipped; [P] or a number. None means 0.
        margin: only for "sigmoid"; [P] or a number. None means 0.
        target: only for "squared", the reward gap that beta · h shall reach; [P] or a number. None means IPO.
        average: s is divided by the tokens of the sequence (at least 1): IPO as its authors confirmed it for TRL, or
            length-normalised DPO.
        lengths: only with `average`; int64 [2P], its divisors where segments hold masked tokens, whose log-prob is 0.
            None means every token counts.
        denominator: a number or a tensor without dimensions, such as the pairs of all ranks and accumulation steps.
            None means P.

    Returns:
        `PreferenceOutput` of the loss, the log-probs of the sequences and the sums that metrics need.

    Raises:
        TypeError: an argument is no tensor, a sparse one, no number, or no truth value.
        ValueError: shapes, dtypes, devices or options do not fit; a second derivative or one of forward mode is asked
            for; or offsets, pair weights or label smoothing have values out of range, which is checked on a CPU always
            and on a GPU if IWPO_DEBUG=1. On a GPU without it, offsets out of range make the loss NaN.
    """
    check_options(form, beta, label_smoothing, margin, target)
    check_switch("average", average)
    _check_tensors(logps, segments, lengths)
    check(lengths is None or average, "lengths is given without average: leave it out, or pass average=True.")
    sequences = segments.shape[0] - 1
    pairs = sequences // 2
    _check_vector("ref_logps", ref_logps, sequences, "one per sequence", logps)
    _check_vector("pair_weights", pair_weights, pairs, "one per pair", logps)
    for name, value in (("label_smoothing", label_smoothing), ("margin", margin), ("target", target)):
        if isinstance(value, Tensor):
            _check_vector(name, value, pairs, "one per pair", logps)
    check_denominator(denominator, logps)
    slope, shift = _slope_and_shift(form, beta, margin, target)
    total, sequence_logps, _, sums = _forward_op(
        logps,
        segments,
        _constant(ref_logps),
        _constant(pair_weights),
        lengths,
        *_tensor_or_number(label_smoothing),
        *_tensor_or_number(shift),
        form,
        slope,
        float(beta),
        average,
    )
    loss = total / (pairs if denominator is None else denominator)
    return PreferenceOutput(loss.to(logps.dtype), sequence_logps, PreferenceSums(*sums.unbind()))


# Sentences with a size or a number are made only where they are raised: formatting one that torch.compile keeps
# symbolic would make it a constant, and every other value a recompilation.


def check_options(
    form: str,
    beta: float,
    label_smoothing: Tensor | float | None = None,
    margin: Tensor | float | None = None,
    target: Tensor | float | None = None,
) -> None:
    """Raises ValueError where options of `weighted_preference_loss` do not fit each other."""
    check(isinstance(form, str) and form in FORMS, f"form is {form!r}: pass one of {', '.join(FORMS)}.")
    check(margin is None or form == "sigmoid", f'form "{form}" has no margin: leave it out, or pass form="sigmoid".')
    check(target is None or form == "squared", f'form "{form}" has no target: leave it out, or pass form="squared".')
    check_number("beta", beta)
    for name, value in (("label_smoothing", label_smoothing), ("margin", margin), ("target", target)):
        if value is not None and not isinstance(value, Tensor):
            check_number(name, value)
    if not 0 < beta < math.inf:
        raise ValueError(f"beta is {beta}: pass a positive number.")
    if isinstance(label_smoothing, float | int) and not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}: pass a probability in [0, 1).")
    for name, value in (("margin", margin), ("target", target)):
        if isinstance(value, float | int) and not -math.inf < value < math.inf:
            raise ValueError(f"{name} is {value}: pass a finite number.")


def check_denominator(denominator: Tensor | float | None, logps: Tensor) -> None:
    if isinstance(denominator, Tensor):
        check(
            denominator.ndim == 0,
            f"denominator has shape {list(denominator.shape)}: pass a number or a tensor without dimensions.",
        )
        check_tensor("denominator", denominator)
        check(
            denominator.dtype in DIVISORS,
            f"denominator is {denominator.dtype}: pass denominator.to({logps.dtype}).",
        )
        check_device("denominator", denominator, logps)
    elif denominator is not None:
        check_number("denominator", denominator)
        if not 0 < denominator < math.inf:
            raise ValueError(f"denominator is {denominator}: pass a positive number.")


def _check_tensors(logps: Tensor, segments: Tensor, lengths: Tensor | None) -> None:
    check_tensor("logps", logps)
    check(logps.ndim == 1, f"logps has {logps.ndim} dimensions: pass the supervised tokens end to end, [N].")
    on_cpu = logps.device.type == "cpu" and not runs_triton(logps.device)
    check(
        logps.dtype == torch.float32 or (on_cpu and logps.dtype == torch.float64),
        f"logps is {logps.dtype} on {logps.device}: pass float32 (or float64 on a CPU).",
    )
    check_no_tangent("logps", logps)
    check_index("segments", segments, logps, "offset")
    size = segments.shape[0]
    if size < 3 or size % 2 == 0:
        raise ValueError(f"segments has {size} offsets: pass 2P + 1 for P pairs, the chosen sequences first.")
    if lengths is not None:
        check_index("lengths", lengths, logps, "length")
        if lengths.shape[0] != size - 1:
            raise ValueError(f"lengths has {lengths.shape[0]} entries for {size - 1} sequences: pass one for each.")


def _check_vector(name: str, value: Tensor | None, size: int, which: str, logps: Tensor) -> None:
    if value is None:
        return
    check_tensor(name, value)
    if value.shape != (size,):
        raise ValueError(f"{name} has shape {list(value.shape)}: pass [{size}], {which}.")
    check(
        value.dtype.itemsize != 2 or not value.is_floating_point(),
        f"{name} is {value.dtype}, too coarse for a difference of log-probs: make it in {logps.dtype}; where it passed "
        "through a module that FSDP2 shards, set MixedPrecisionPolicy(cast_forward_inputs=False).",
    )
    check(
        value.dtype == logps.dtype, f"{name} is {value.dtype} and logps {logps.dtype}: pass {name}.to({logps.dtype})."
    )
    check_device(name, value, logps)


def _check_values(
    logps: Tensor, segments: Tensor, weights: Tensor | None, lengths: Tensor | None, smoothing: Tensor | None
) -> None:
    first, last = int(segments[0]), int(segments[-1])
    check(
        first == 0 and last == logps.shape[0],
        f"segments run from {first} to {last} and logps has {logps.shape[0]} tokens: pass offsets from 0 to N.",
    )
    check(bool((segments.diff() >= 0).all()), "segments decrease: pass offsets in ascending order.")
    if weights is not None:
        check(
            bool((weights.isfinite() & (weights >= 0)).all()),
            "pair_weights hold negative or non-finite values: pass finite weights of at least 0.",
        )
    if lengths is not None:
        check(bool((lengths >= 0).all()), "lengths hold negative values: pass the number of tokens of each sequence.")
    if smoothing is not None:
        check(
            bool(((smoothing >= 0) & (smoothing < 1)).all()),
            "label_smoothing holds values outside [0, 1): pass the probability that a label is flipped.",
        )


def _slope_and_shift(
    form: Form, beta: float, margin: Tensor | float | None, target: Tensor | float | None
) -> tuple[float, Tensor | float]:
    """a and b such that ℓ(h) = f(a h − b), see `PairLoss`."""
    if form == "sigmoid":
        return float(beta), 0.0 if margin is None else margin
    if form == "squared":
        return (1.0, 1 / (2 * beta)) if target is None else (float(beta), target)
    return float(beta), 1.0


def _constant(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _tensor_or_number(value: Tensor | float | None) -> tuple[Tensor | None, float]:
    if isinstance(value, Tensor):
        return value.detach(), 0.0
    return None, 0.0 if value is None else float(value)


@torch.library.custom_op("iwpo_kernels::weighted_preference_loss", mutates_args=())
def _forward_op(
    logps: Tensor,
    segments: Tensor,
    ref_logps: Tensor | None,
    weights: Tensor | None,
    lengths: Tensor | None,
    smoothing_of_pairs: Tensor | None,
    smoothing: float,
    shift_of_pairs: Tensor | None,
    shift: float,
    form: str,
    slope: float,
    beta: float,
    average: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Σ w · loss; log-prob of each sequence; gradient of the first per token of each sequence; sums."""
    if checks_labels(logps.device):
        _check_values(logps, segments, weights, lengths, smoothing_of_pairs)
    loss = PairLoss(
        form=form,
        slope=slope,
        shift=shift if shift_of_pairs is None else shift_of_pairs,
        smoothing=smoothing if smoothing_of_pairs is None else smoothing_of_pairs,
        beta=beta,
        average=average,
    )
    if runs_triton(logps.device):
        from iwpo_kernels.weighted_preference import gpu

        out = gpu.forward(logps, segments, ref_logps, weights, lengths, loss)
    else:
        out = cpu.forward(logps, segments, ref_logps, weights, lengths, loss)
    total = out.sums[PreferenceSums._fields.index("weighted_loss")].to(logps.dtype, copy=True)
    return total, out.sequence_logps, out.coefficients, out.sums


@_forward_op.register_fake
def _(logps, segments, *options):  # type: ignore[no-untyped-def]
    sequences = segments.shape[0] - 1
    sums = logps.new_empty(len(PreferenceSums._fields), dtype=torch.float64)
    return logps.new_empty(()), logps.new_empty(sequences), logps.new_empty(sequences), sums


@torch.library.custom_op("iwpo_kernels::weighted_preference_loss_backward", mutates_args=())
def _backward_op(grad: Tensor, coefficients: Tensor, segments: Tensor, tokens: int) -> Tensor:
    """Gradient of each token, [tokens], from that of the weighted sum and the coefficients of the sequences."""
    if runs_triton(grad.device):
        from iwpo_kernels.weighted_preference import gpu

        return gpu.token_gradient(grad, coefficients, segments, tokens)
    return cpu.token_gradient(grad, coefficients, segments, tokens)


@_backward_op.register_fake
def _(grad, coefficients, segments, tokens):  # type: ignore[no-untyped-def]
    return coefficients.new_empty(tokens)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logps, segments, *_ = inputs
    _, sequence_logps, coefficients, sums = output
    ctx.mark_non_differentiable(sequence_logps, coefficients, sums)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(coefficients, segments)
    ctx.tokens = logps.shape[0]


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    others = (None,) * 12
    if grad is None:
        return (None, *others)
    check_first_derivative("weighted_preference_loss")
    return (_backward_op(grad, *ctx.saved_tensors, ctx.tokens), *others)


_forward_op.register_autograd(_backward, setup_context=_setup_context)
for _op in (_forward_op, _backward_op):
    _op.register_vmap(refuse_vmap("weighted_preference_loss"))
