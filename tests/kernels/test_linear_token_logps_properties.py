"""`linear_token_logps` on shapes drawn at random, on real vocabulary sizes, and its tiles."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from linear_cases import Case, assert_exact, assert_gradient_within, forget_tiles, random_case, run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iwpo_kernels.linear_token_logps import cpu, linear_token_logps, naive_linear_token_logps, tiling
from iwpo_kernels.linear_token_logps.tuned import DEFAULTS, Mode

VOCABULARIES = [50257, 128256, 151936, 256000]


@st.composite
def cases(draw: st.DrawFn, largest: int) -> Case:
    """Any sizes, any rows any number of times, some tokens skipped, any head."""
    rows = draw(st.integers(1, 9))
    vocab = draw(st.integers(2, largest))
    tokens = draw(st.integers(0, 12))
    features = draw(st.integers(1, 33))
    case = random_case(rows, features, vocab, seed=draw(st.integers(0, 2**16)), bias=draw(st.booleans()))
    label = st.one_of(st.just(-100), st.integers(0, vocab - 1))
    index = draw(st.lists(st.integers(0, rows - 1), min_size=tokens, max_size=tokens))
    labels = draw(st.lists(label, min_size=tokens, max_size=tokens))
    head = {
        "softcap": draw(st.sampled_from([None, 1.5])),
        "scale": draw(st.sampled_from([1.0, -0.3])),
        "temperature": draw(st.sampled_from([1.0, 0.7])),
    }
    return replace(
        case,
        hidden_index=torch.tensor(index, dtype=torch.int64),
        labels=torch.tensor(labels, dtype=torch.int64),
        grad=torch.linspace(-1, 2, tokens),
        settings=head,
    )


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_tiles(monkeypatch)
    monkeypatch.setattr(tiling, "ALIGNMENT", 16)
    monkeypatch.setattr(tiling, "WIDEST_SLICE", 48)
    monkeypatch.setattr(tiling, "MOST_ROWS", 5)
    monkeypatch.setattr(tiling, "CPU_ROWS", 5)


PATIENT = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@settings(PATIENT, max_examples=60)
@given(case=cases(largest=300), save=st.booleans())
def test_float64_equals_the_specification(narrow: None, case: Case, save: bool) -> None:
    ours = run(linear_token_logps, case, torch.float64, save=save)
    truth = run(naive_linear_token_logps, case, torch.float64)
    for value, true in zip(ours.values, truth.values, strict=True):
        torch.testing.assert_close(value, true, rtol=1e-10, atol=1e-10)
    assert ours.grads.keys() == truth.grads.keys()
    for name, grad in ours.grads.items():
        torch.testing.assert_close(grad, truth.grads[name], rtol=1e-10, atol=1e-10)


@settings(PATIENT, max_examples=6)
@given(case=cases(largest=80), save=st.booleans())
def test_kernels_are_exact_on_any_shape(narrow: None, device: torch.device, case: Case, save: bool) -> None:
    assert_exact(case, torch.float32, device, save=save)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_real_vocabularies(vocab: int) -> None:
    case = random_case(tokens=5, features=12, vocab=vocab, spread=4.0)
    labels = torch.tensor([0, vocab - 1, vocab // 2, -100, 12345])
    assert_exact(replace(case, labels=labels), torch.float32, save=True)


@pytest.mark.parametrize(
    ("vocab", "dtype", "save"),
    [
        (50257, torch.float32, False),
        (128256, torch.bfloat16, True),
        (151936, torch.float16, True),
        (256000, torch.bfloat16, False),
        (32003, torch.float16, False),
        (50259, torch.bfloat16, True),
        (151665, torch.float32, True),
    ],
)
def test_real_vocabularies_in_the_kernels(device: torch.device, vocab: int, dtype: torch.dtype, save: bool) -> None:
    case = random_case(tokens=3, features=6, vocab=vocab, spread=4.0, bias=True)
    assert_exact(replace(case, labels=torch.tensor([0, vocab - 1, vocab // 2])), dtype, device, save=save)


@pytest.mark.gpu
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_trainable_heads_of_real_size(device: torch.device, vocab: int, save: bool, dtype: torch.dtype) -> None:
    assert_exact(random_case(tokens=70, features=200, vocab=vocab, spread=4.0), dtype, device, save=save)


def assert_rows_are_exact(rows: list[int], tokens: int, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Log-probs and gradients of a call in which only `rows` have a gradient, against a call of those alone.

    Logits have a standard deviation of 6, so that some exponentials are large and those of another row would show.
    """
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(tokens, 64, device=device, generator=generator).to(dtype)
    weight = (torch.randn(vocab, 64, device=device, generator=generator) * 6 / 8).to(dtype)
    labels = torch.randint(vocab, (tokens,), device=device, generator=generator)
    grad = torch.zeros(tokens, device=device)
    grad[rows] = torch.linspace(1, -2, len(rows), device=device)

    def alone(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        leaves = [hidden[rows].to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
        logps = naive_linear_token_logps(*leaves, labels[rows])
        of_hidden, of_weight = torch.autograd.grad(logps, leaves, grad[rows].to(logps.dtype))
        return logps.detach(), of_hidden.double(), of_weight.double()

    largest_logit = float((hidden[rows].float() @ weight.float().T).abs().max())
    true_logps, *truth = alone(torch.float64)
    _, *plain = alone(dtype)
    for save in (True, False):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        logps = linear_token_logps(*leaves, labels, save=save)
        of_hidden, of_weight = torch.autograd.grad(logps, leaves, grad)
        torch.testing.assert_close(logps[rows].double(), true_logps, rtol=5e-6, atol=5e-6)
        assert_gradient_within("hidden", of_hidden[rows].double(), plain[0], truth[0], dtype, largest_logit)
        assert_gradient_within("weight", of_weight.double(), plain[1], truth[1], dtype, largest_logit)
        of_hidden[rows] = 0
        assert of_hidden.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_with_a_gradient_are_told_from_those_without(device: torch.device, dtype: torch.dtype) -> None:
    assert_rows_are_exact([2, 5, 6], 7, 45, dtype, device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_more_than_two_to_the_31_saved_elements(device: torch.device, dtype: torch.dtype) -> None:
    """The row that crosses the boundary, its neighbours, and the last ones."""
    tokens, vocab = 16384, 151936
    crossing = 2**31 // tiling.padded_vocab(vocab)
    assert crossing + 1 < tokens - 2
    assert_rows_are_exact([crossing - 1, crossing, crossing + 1, tokens - 2, tokens - 1], tokens, vocab, dtype, device)


class LargestResult(TorchDispatchMode):
    """Elements of the largest tensor that an operation returns inside."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def test_memory_for_the_gradient_of_hidden_goes_by_tokens_that_have_one() -> None:
    tokens, active, rows, features = 1000, 10, 7, 30
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(tokens, features, generator=generator)
    grad = torch.zeros(tokens).index_fill(0, torch.arange(0, tokens, tokens // active), 2.0)
    index = torch.arange(tokens) % rows
    out = torch.empty(rows, features)
    with LargestResult() as largest:
        cpu.hidden_gradient(grad, jacobian, index, out)
    assert largest.elements <= max(tokens, active * features)
    torch.testing.assert_close(out, torch.zeros(rows, features).index_add_(0, index, grad[:, None] * jacobian))


@given(
    vocab=st.integers(2, 300_000),
    features=st.sampled_from([64, 896, 4096, 8192]),
    element_size=st.sampled_from([2, 4]),
    workspace_mb=st.integers(8, 4096),
    count=st.integers(1, 100_000),
    mode=st.sampled_from(get_args(Mode)),
    in_order=st.booleans(),
)
def test_tiles_cover_everything_within_the_budget(
    vocab: int, features: int, element_size: int, workspace_mb: int, count: int, mode: Mode, in_order: bool
) -> None:
    work = tiling.Work(
        count=count,
        vocab=vocab,
        features=features,
        per_logit=4 + (element_size if mode in ("frozen", "recomputed") else 0),
        per_row=features * (element_size + (4 if mode in ("frozen", "saved") and not in_order else 0)),
        second={"no gradient": None, "frozen": "hidden", "saved": "hidden", "recomputed": "head"}[mode],
    )
    tile = tiling.gpu_tiling(work, workspace_mb, torch.device("cpu"), DEFAULTS)
    slices, ranges = tile.slices(vocab), tile.row_ranges(count)
    for parts, whole, largest in ((slices, vocab, tile.width), (ranges, count, tile.rows)):
        assert parts[0][0] == 0 and parts[-1][1] == whole
        assert all(end == start for (_, end), (start, _) in pairwise(parts))
        assert all(0 < end - start <= largest for start, end in parts)
    assert all(start % tiling.ALIGNMENT == 0 for start, _ in slices)
    smallest = tiling.Tiling(tiling.ALIGNMENT, tiling.ALIGNMENT)
    if mode == "recomputed":  # all rows at once, so that each slice of the gradient is written once
        assert len(ranges) == 1
        smallest = tiling.Tiling(tile.rows, min(tile.width, tiling.NARROWEST_GRADIENT * tiling.ALIGNMENT))
    assert work.bytes(tile) <= max(workspace_mb << 20, work.bytes(smallest))
