"""Calls of the public operators, right ones and spoilt ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from iwpo_kernels import (
    LinearPreferenceLoss,
    PaddedLinearPreferenceLoss,
    linear_preference_loss,
    linear_token_logps,
    linear_token_statistics,
    padded_segments,
    token_logps,
    weighted_preference_loss,
)

IGNORED = -100


class Call(NamedTuple):
    """An operator by name, and its arguments."""

    operator: str
    arguments: dict[str, Any]


def _linear_preference_module(**given: Any) -> Any:
    names = ("hidden", "head_weight", "labels", "segments", "ref_logps", "pair_weights")
    tensors = {name: given.pop(name) for name in names if name in given}
    return LinearPreferenceLoss(**given)(*tensors.values())


def _padded_module(**given: Any) -> Any:
    names = ("lin_weight", "_input", "target", "bias", "ref_logps", "pair_weights")
    tensors = {name: given.pop(name) for name in names if name in given}
    return PaddedLinearPreferenceLoss(**given)(**tensors)


OPERATORS: dict[str, Callable[..., Any]] = {
    "token_logps": token_logps,
    "linear_token_logps": linear_token_logps,
    "linear_token_statistics": linear_token_statistics,
    "weighted_preference_loss": weighted_preference_loss,
    "linear_preference_loss": linear_preference_loss,
    "LinearPreferenceLoss": _linear_preference_module,
    "PaddedLinearPreferenceLoss": _padded_module,
    "padded_segments": padded_segments,
}

SPOILT_TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "another dimension": lambda x: x[None],
    "a dimension less": lambda x: x.flatten()[0] if x.ndim < 2 else x.flatten(),
    "without dimensions": lambda x: torch.zeros((), dtype=x.dtype),
    "a row less": lambda x: x[:-1],
    "a row more": lambda x: torch.cat([x, x[:1]]),
    "a column less": lambda x: x[..., :-1],
    "no row": lambda x: x[:0],
    "no column": lambda x: x[..., :0],
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "transposed in memory": lambda x: x.T.contiguous().T if x.ndim == 2 else x,
    "one element for all": lambda x: x.flatten()[:1].expand(x.numel()).view(x.shape) if x.numel() else x,
    "backwards": lambda x: x.flip(0),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "list": lambda x: x.tolist(),
    "array": lambda x: x.detach().float().numpy(),
    "None": lambda x: None,
    "number": lambda x: 1,
    "text": lambda x: "tensor",
    "a parameter": lambda x: torch.nn.Parameter(x.detach().clone(), requires_grad=x.is_floating_point()),
    "conjugated": lambda x: x.to(torch.complex64).conj(),
} | {
    str(dtype): lambda x, dtype=dtype: x.to(dtype)
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn),
        *(torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool, torch.complex64),
    )
}

VALUES = (math.nan, math.inf, -math.inf, 1e30, -1e30, 0.0, -1.0, 0.5, 1.0, -100.0, 3.0, 1e6, -1e15)
"""What one element of a tensor may become."""

SPOILT_NUMBERS: tuple[Any, ...] = (
    *(math.nan, math.inf, -math.inf, 0, -1, 1, 0.5, 2, 1e-320, 1e308, -1e308, 10**400, -(10**400), 2**63),
    *(True, False, None, "1", "auto", [1.0], 1j, np.float32(0.5), np.float64(0.25), np.array([0.5]), torch.tensor(0.5)),
    *(torch.tensor([0.5]), torch.tensor(2), object()),
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A call that is right, or has one or two arguments spoilt."""
    operator = draw(st.sampled_from(sorted(OPERATORS)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    arguments = _ARGUMENTS[operator](draw, generator)
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2)))):
        name = draw(st.sampled_from(sorted(arguments)))
        arguments[name] = _spoilt(draw, arguments[name])
    return Call(operator, arguments)


def _spoilt(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, Tensor) or draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(SPOILT_NUMBERS))
    if value.numel() and value.device.type == "cpu" and value.layout == torch.strided and draw(st.booleans()):
        place, new = draw(st.integers(0, value.numel() - 1)), draw(st.sampled_from(VALUES))
        copy = value.detach().clone().contiguous()
        if copy.is_floating_point() or abs(new) <= 1e15:
            copy.view(-1)[place] = new
        return copy
    how = draw(st.sampled_from(sorted(SPOILT_TENSORS)))
    try:
        return SPOILT_TENSORS[how](value)
    except (RuntimeError, IndexError, NotImplementedError):  # this tensor cannot be spoilt in this way
        return value


def _tokens(draw: st.DrawFn, generator: torch.Generator, rows: int, vocab: int) -> Tensor:
    labels = torch.randint(vocab, (rows,), generator=generator)
    return labels.where(torch.rand(rows, generator=generator) < draw(st.sampled_from((1.0, 0.7, 0.0))), IGNORED)


def _dtype(draw: st.DrawFn) -> torch.dtype:
    return draw(st.sampled_from((torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)))


def _of_token_logps(draw: st.DrawFn, generator: torch.Generator) -> dict[str, Any]:
    rows, vocab = draw(st.integers(0, 5)), draw(st.integers(2, 9))
    logits = torch.randn(rows, vocab, generator=generator).to(_dtype(draw))
    return {
        "logits": logits.requires_grad_(draw(st.booleans())),
        "labels": _tokens(draw, generator, rows, vocab),
        "temperature": draw(st.sampled_from((1.0, 0.7, 2))),
        "inplace_backward": False,
    }


def _of_linear(draw: st.DrawFn, generator: torch.Generator) -> dict[str, Any]:
    rows, features, vocab = draw(st.integers(0, 5)), draw(st.integers(1, 6)), draw(st.integers(2, 9))
    dtype = _dtype(draw)
    hidden, weight = (torch.randn(n, features, generator=generator).to(dtype) for n in (rows, vocab))
    arguments: dict[str, Any] = {
        "hidden": hidden.requires_grad_(draw(st.booleans())),
        "head_weight": weight.requires_grad_(draw(st.booleans())),
        "labels": _tokens(draw, generator, rows, vocab),
        "scale": draw(st.sampled_from((1.0, 0.5, -2))),
        "temperature": draw(st.sampled_from((1.0, 0.7))),
        "workspace_mb": 1,
        "save": draw(st.sampled_from((True, False, "auto"))),
    }
    if draw(st.booleans()):
        arguments["bias"] = torch.randn(vocab, generator=generator).to(dtype)
    if draw(st.booleans()):
        arguments["softcap"] = 3.0
    if rows and draw(st.booleans()):
        arguments["hidden_index"] = torch.randint(rows, (rows,), generator=generator)
    return arguments


def _of_pairs(draw: st.DrawFn, generator: torch.Generator, tokens: int, dtype: torch.dtype) -> dict[str, Any]:
    pairs = draw(st.integers(1, 3))
    cuts = torch.randint(tokens + 1, (2 * pairs - 1,), generator=generator).sort().values
    form = draw(st.sampled_from(("sigmoid", "squared", "hinge")))
    arguments: dict[str, Any] = {
        "segments": torch.cat([torch.tensor([0]), cuts, torch.tensor([tokens])]),
        "form": form,
        "beta": draw(st.sampled_from((0.1, 1, 5.0))),
        "average": draw(st.booleans()),
    }
    if draw(st.booleans()):
        arguments["ref_logps"] = -torch.rand(2 * pairs, generator=generator).to(dtype)
    if draw(st.booleans()):
        arguments["pair_weights"] = torch.rand(pairs, generator=generator).to(dtype)
    if draw(st.booleans()):
        eps = torch.rand(pairs, generator=generator).to(dtype) * 0.9
        arguments["label_smoothing"] = draw(st.sampled_from((0.0, 0.2, eps)))
    if draw(st.booleans()):
        arguments["denominator"] = draw(st.sampled_from((2, 0.5, torch.tensor(3.0))))
    shift = {"sigmoid": "margin", "squared": "target"}.get(form)
    if shift and draw(st.booleans()):
        arguments[shift] = draw(st.sampled_from((0.5, torch.rand(pairs, generator=generator).to(dtype))))
    return arguments


def _of_weighted(draw: st.DrawFn, generator: torch.Generator) -> dict[str, Any]:
    tokens, dtype = draw(st.integers(0, 8)), draw(st.sampled_from((torch.float32, torch.float64)))
    logps = (-torch.rand(tokens, generator=generator).to(dtype)).requires_grad_(draw(st.booleans()))
    arguments = {"logps": logps, **_of_pairs(draw, generator, tokens, dtype)}
    if arguments["average"] and draw(st.booleans()):
        arguments["lengths"] = arguments["segments"].diff()
    return arguments


def _of_linear_preference(draw: st.DrawFn, generator: torch.Generator) -> dict[str, Any]:
    linear = _of_linear(draw, generator)
    exact = torch.promote_types(linear["hidden"].dtype, torch.float32)
    return linear | _of_pairs(draw, generator, len(linear["labels"]), exact)


def _of_module(draw: st.DrawFn, generator: torch.Generator) -> dict[str, Any]:
    linear = _of_linear(draw, generator)
    rows, exact = len(linear["labels"]), torch.promote_types(linear["hidden"].dtype, torch.float32)
    arguments = {name: value for name, value in linear.items() if name not in ("bias", "hidden_index")}
    arguments |= {
        "segments": torch.tensor([0, rows // 2, rows]),
        "form": draw(st.sampled_from(("sigmoid", "squared", "hinge"))),
        "beta": 0.5,
        "average": draw(st.booleans()),
    }
    if draw(st.booleans()):
        arguments |= {
            "ref_logps": -torch.rand(2, generator=generator).to(exact),
            "pair_weights": torch.ones(1).to(exact),
        }
    return arguments


def _of_padded(draw: st.DrawFn, generator: torch.Generator) -> dict[str, Any]:
    pairs, length, features, vocab = draw(st.integers(1, 2)), draw(st.integers(1, 3)), 4, draw(st.integers(2, 6))
    labels = _tokens(draw, generator, 2 * pairs * length, vocab).view(2 * pairs, length)
    arguments: dict[str, Any] = {
        "lin_weight": torch.randn(vocab, features, generator=generator).requires_grad_(draw(st.booleans())),
        "_input": torch.randn(2 * pairs, length, features, generator=generator),
        "target": labels,
        "loss_type": draw(st.sampled_from(("sigmoid", "hinge", "ipo"))),
        "beta": draw(st.sampled_from((0.1, 2.0))),
        "label_smoothing": draw(st.sampled_from((0.0, 0.2))),
        "average_log_prob": draw(st.booleans()),
        "use_ref_model": draw(st.booleans()),
        "compute_nll_loss": draw(st.booleans()),
        "alpha": 0.5,
        "ignore_index": IGNORED,
    }
    if arguments["use_ref_model"]:
        arguments["ref_logps"] = -torch.rand(2 * pairs, generator=generator)
    if draw(st.booleans()):
        arguments["bias"] = torch.randn(vocab, generator=generator)
    if draw(st.booleans()):
        arguments["pair_weights"] = torch.rand(pairs, generator=generator)
    return arguments


def _of_segments(draw: st.DrawFn, generator: torch.Generator) -> dict[str, Any]:
    return {"labels": torch.randint(5, (draw(st.integers(0, 4)), draw(st.integers(0, 4))), generator=generator)}


_ARGUMENTS: dict[str, Callable[[st.DrawFn, torch.Generator], dict[str, Any]]] = {
    "token_logps": _of_token_logps,
    "linear_token_logps": _of_linear,
    "linear_token_statistics": _of_linear,
    "weighted_preference_loss": _of_weighted,
    "linear_preference_loss": _of_linear_preference,
    "LinearPreferenceLoss": _of_module,
    "PaddedLinearPreferenceLoss": _of_padded,
    "padded_segments": _of_segments,
}
