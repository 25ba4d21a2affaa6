"""Calls that between them launch every compilation of every kernel that users can ask for."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iwpo_kernels import linear_token_logps, linear_token_statistics, token_logps, weighted_preference_loss
from iwpo_kernels.linear_token_logps import kernels
from iwpo_kernels.linear_token_logps.epilogue import serves, stream_slice
from iwpo_kernels.linear_token_logps.types import Head

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
STANDING = (torch.bfloat16, torch.float32)  # the two 16-bit types differ in one conversion, so one stands for both
ONE_TYPE = (torch.bfloat16,)
Call = Callable[[], Any]
HEAD = ("weight", "bias")
EVERYTHING = ("hidden", *HEAD)


@dataclass(frozen=True)
class Layout:
    """Where the elements of a matrix lie, as far as wide loads care.

    Attributes:
        columns: of the matrix.
        padding: columns of the memory that are left out.
        offset: elements before the first one.
        step: between columns.
    """

    columns: int = 64
    padding: int = 0
    offset: int = 0
    step: int = 1

    def matrix(self, rows: int, dtype: torch.dtype) -> Tensor:
        stride = (self.columns + self.padding) * self.step
        memory = torch.zeros(rows * stride + self.offset, dtype=dtype)
        return memory.as_strided((rows, self.columns), (stride, self.step), self.offset).requires_grad_()


ALIGNED = Layout()
ODD = Layout(columns=45)
UNUSUAL = (Layout(offset=1), Layout(padding=1), Layout(columns=45, padding=3), Layout(columns=45, offset=1))


def _layouts(dtype: torch.dtype) -> tuple[Layout, ...]:
    """Why loads are narrow matters little to what a kernel needs, so one dtype stands for all where it is unusual."""
    return (ALIGNED, ODD, *UNUSUAL) if dtype == torch.bfloat16 else (ALIGNED, ODD)


def every_call(dtypes: tuple[torch.dtype, ...] = DTYPES) -> list[Call]:
    return [*_linear_calls(dtypes), *_token_calls(dtypes), *_preference_calls()]


def aligned_calls() -> list[Call]:
    """Those whose rows begin at multiples of 16 elements and are as long; a bias is one row of any length."""
    linear = (
        partial(_linear, (ALIGNED, ALIGNED), dtype, 256, save, ("bias", *frozen), softcap=softcap, stats=stats)
        for dtype, softcap, stats, save in itertools.product(DTYPES, (None, 2.0), (False, True), (False, True))
        for frozen in ((), ("weight",), ("weight", "hidden"))
    )
    tokens = (partial(_tokens, ALIGNED, dtype, inplace) for dtype in DTYPES for inplace in (False, True))
    return [*linear, *tokens, *_preference_calls()]


def epilogue_calls(dtypes: tuple[torch.dtype, ...] = DTYPES) -> list[Call]:
    """Few, as each takes seconds to compile: 16-bit types, which differ in one conversion, stand for each other."""
    cases = {torch.bfloat16: (2.0, 256), torch.float16: (None, 301), torch.float32: (2.0, 301)}
    return [partial(_epilogue, dtype, *cases[dtype]) for dtype in dtypes]


def random_calls(count: int, seed: int) -> Iterator[Call]:
    """Calls of other sizes and strides, with options drawn at random."""
    draw = random.Random(seed)
    for _ in range(count):
        yield draw.choice((_random_linear_call, _random_token_call, _random_preference_call))(draw)


def _linear_calls(dtypes: tuple[torch.dtype, ...]) -> Iterator[Call]:
    for dtype, softcap, stats, save in itertools.product(dtypes, (None, 2.0), (False, True), (False, True)):
        for vocab, frozen in itertools.product((256, 301), ((), HEAD, EVERYTHING)):
            layouts = (ALIGNED, ALIGNED)
            yield partial(_linear, layouts, dtype, vocab, save, frozen, softcap=softcap, stats=stats)
    for dtype, save in itertools.product(dtypes, (False, True)):
        for layout in _layouts(dtype):
            yield partial(_linear, (layout, Layout(layout.columns)), dtype, save=save, master=True)
    for dtype, stats, frozen in itertools.product(dtypes, (False, True), ((), EVERYTHING)):
        for layout in _layouts(dtype):
            same_columns = Layout(layout.columns)
            for layouts in ((layout, same_columns), (same_columns, layout)):
                yield partial(_linear, layouts, dtype, frozen=frozen, stats=stats)


def _linear(
    layouts: tuple[Layout, Layout],
    dtype: torch.dtype,
    vocab: int = 256,
    save: bool = False,
    frozen: tuple[str, ...] = (),
    tokens: int = 5,
    master: bool = False,
    stats: bool = False,
    **options: Any,
) -> None:
    """Several slices of the vocabulary, rows that predict two tokens, and a label that is skipped."""
    hidden = layouts[0].matrix(tokens, dtype)
    weight = layouts[1].matrix(vocab, torch.float32 if master else dtype)
    bias = torch.zeros(vocab, dtype=weight.dtype)
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        tensor.requires_grad_(name not in frozen)
    labels = torch.zeros(tokens + 1, dtype=torch.int64)[1:]
    labels[0] = -100
    index = torch.zeros(tokens + 1, dtype=torch.int64)[1:]
    call = partial(linear_token_statistics if stats else linear_token_logps, hidden, weight, labels)
    result = call(bias=bias, hidden_index=index, save=save, workspace_mb=1, **options)
    logps = result if isinstance(result, Tensor) else result.logps
    if logps.requires_grad:
        logps.sum().backward()


def _epilogue(dtype: torch.dtype, softcap: float | None, columns: int, tokens: int = 5) -> None:
    """A first slice with masses, whose references a product without masses makes, and a pass without any."""
    x, weight = (ALIGNED.matrix(rows, dtype).detach() for rows in (tokens, columns))
    assert serves(x, weight, bias=None, stats=False, saves=False)
    labels = torch.zeros(tokens + 1, dtype=torch.int64)[1:]
    state = torch.zeros(kernels.PLANES, tokens)
    memory = torch.zeros(tokens, 16 * (columns // 16 + 1), dtype=dtype)
    for masses in (memory[:, :columns], None):
        stream_slice(x, weight, labels, state, 0, masses, Head(weight, None, softcap, 1.0, 1.0))


def _token_calls(dtypes: tuple[torch.dtype, ...]) -> Iterator[Call]:
    for dtype, inplace in itertools.product(dtypes, (False, True)):
        for layout in (*_layouts(dtype), Layout(step=2)):
            yield partial(_tokens, layout, dtype, inplace)


def _tokens(layout: Layout, dtype: torch.dtype, inplace: bool, tokens: int = 5) -> None:
    logits = layout.matrix(tokens, dtype).detach().mul_(torch.ones((), requires_grad=True))  # no leaf, same strides
    labels = torch.zeros(tokens + 1, dtype=torch.int64)[1:]
    logps = token_logps(logits, labels, inplace_backward=inplace)
    logps.backward(torch.zeros(tokens + 1)[1:])


def _preference_calls() -> Iterator[Call]:
    return (partial(_preferences, form=form) for form in ("sigmoid", "squared", "hinge"))


def _preferences(lengths: tuple[int, ...] = (3, 2), offset: int = 0, **options: Any) -> None:
    segments = torch.tensor([0, *lengths]).cumsum(0)
    logps = torch.zeros(int(segments[-1]) + offset)[offset:].requires_grad_()
    weighted_preference_loss(logps, segments, **options).loss.backward()


def _random_linear_call(draw: random.Random) -> Call:
    dtype = draw.choice(DTYPES)
    layout = _random_layout(draw, dtype)
    same_columns = Layout(layout.columns)
    return partial(
        _linear,
        draw.choice(((layout, same_columns), (same_columns, layout))),
        dtype,
        tokens=draw.randint(1, 40),
        vocab=draw.choice((2, 128, 129, 257, 1024, draw.randint(2, 2000))),
        save=draw.random() < 0.5,
        frozen=tuple(name for name in EVERYTHING if draw.random() < 0.3),
        softcap=draw.choice((None, 30.0)),
        scale=draw.choice((1, 0.5)),
        temperature=draw.choice((1, 0.7)),
        stats=draw.random() < 0.5,
        master=draw.random() < 0.2,
    )


def _random_token_call(draw: random.Random) -> Call:
    dtype = draw.choice(DTYPES)
    return partial(_tokens, _random_layout(draw, dtype), dtype, draw.random() < 0.5, draw.randint(1, 40))


def _random_preference_call(draw: random.Random) -> Call:
    pairs = draw.randint(1, 17)
    lengths = tuple(draw.randint(0, 40) for _ in range(2 * pairs))
    options: dict[str, Any] = {"form": draw.choice(("sigmoid", "squared", "hinge")), "average": draw.random() < 0.5}
    for name, size in (("ref_logps", 2 * pairs), ("pair_weights", pairs), ("label_smoothing", pairs)):
        if draw.random() < 0.5:
            options[name] = torch.zeros(size + 1)[1:]
    return partial(_preferences, lengths, draw.randint(0, 1), **options)


def _random_layout(draw: random.Random, dtype: torch.dtype) -> Layout:
    kind = draw.choice(_layouts(dtype))
    columns = 16 * draw.randint(1, 9) + (draw.randint(1, 15) if kind.columns % 16 else 0)
    padding = 0
    if kind.padding:
        padding = -columns % 16 if kind.columns % 16 else draw.randint(1, 15)
    return Layout(columns, padding, kind.offset)
