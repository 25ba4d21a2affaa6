"""`linear_token_logps` on shapes drawn at random, on real vocabulary sizes, and its tiles."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from linear_cases import Case, assert_exact, random_case, run

from iwpo_kernels.linear_token_logps import linear_token_logps, naive_linear_token_logps, tiling

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
    monkeypatch.setattr(tiling, "ALIGNMENT", 16)
    monkeypatch.setattr(tiling, "WIDEST_SLICE", 48)
    monkeypatch.setattr(tiling, "ROWS_PER_TILE", 5)


PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


@pytest.mark.parametrize("vocab", [50257, 151936])
def test_real_vocabularies_in_the_kernels(device: torch.device, vocab: int) -> None:
    """With a frozen head: its gradient has a program per token of the vocabulary, which the interpreter runs singly."""
    case = random_case(tokens=2, features=12, vocab=vocab, spread=4.0)
    case = replace(case, labels=torch.tensor([0, vocab - 1]), frozen=("weight",))
    assert_exact(case, torch.float32, device)


@pytest.mark.gpu
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_trainable_heads_of_real_size(device: torch.device, vocab: int, save: bool, dtype: torch.dtype) -> None:
    assert_exact(random_case(tokens=70, features=200, vocab=vocab, spread=4.0), dtype, device, save=save)


@pytest.mark.gpu
def test_more_than_two_to_the_31_saved_elements() -> None:
    tokens, vocab = 16384, 151936
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(tokens, 64, device="cuda", generator=generator).bfloat16()
    weight = (torch.randn(vocab, 64, device="cuda", generator=generator) / 8).bfloat16()
    labels = torch.randint(vocab, (tokens,), device="cuda", generator=generator)
    last = slice(tokens - 4, None)
    grads = []
    for save in (True, False):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        logps = linear_token_logps(*leaves, labels, save=save)
        logps.sum().backward()
        grads.append([leaf.grad for leaf in leaves])
        truth = naive_linear_token_logps(hidden[last].double(), weight.double(), labels[last])
        torch.testing.assert_close(logps[last].double(), truth, rtol=5e-6, atol=5e-6)
    for saved, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(saved, recomputed, rtol=2e-2, atol=2e-2)


@given(
    vocab=st.integers(2, 300_000),
    features=st.sampled_from([64, 896, 4096, 8192]),
    element_size=st.sampled_from([2, 4]),
    workspace_mb=st.integers(8, 4096),
    count=st.integers(1, 100_000),
)
def test_tiles_cover_everything_within_the_budget(
    vocab: int, features: int, element_size: int, workspace_mb: int, count: int
) -> None:
    tile = tiling.forward_tiling(vocab, features, element_size, workspace_mb)
    slices, ranges = tile.slices(vocab), tile.row_ranges(count)
    for parts, whole, largest in ((slices, vocab, tile.width), (ranges, count, tile.rows)):
        assert parts[0][0] == 0 and parts[-1][1] == whole
        assert all(end == start for (_, end), (start, _) in pairwise(parts))
        assert all(0 < end - start <= largest for start, end in parts)
    assert all(start % tiling.ALIGNMENT == 0 for start, _ in slices)
    needed = tile.rows * (tile.width * (4 + element_size) + features * (8 + element_size))
    least = tiling.ALIGNMENT * (tiling.ALIGNMENT * (4 + element_size) + features * (8 + element_size))
    assert needed <= max(workspace_mb << 20, least)
