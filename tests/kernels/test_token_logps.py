"""`token_logps` against its float64 specification: the PyTorch path, and the Triton kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from iwpo_kernels.token_logps import cpu, kernels, naive_token_logps, op, token_logps

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks and parts also where inputs are tiny."""
    monkeypatch.setattr(kernels, "BLOCK", 64)
    monkeypatch.setattr(cpu, "ELEMENTS_AT_ONCE", 500)


@pytest.fixture(params=["pytorch", "kernels"])
def place(request: pytest.FixtureRequest) -> torch.device:
    """A CPU with the PyTorch path, and where the Triton kernels run."""
    return torch.device("cpu") if request.param == "pytorch" else request.getfixturevalue("device")


def random_logits(tokens: int = 7, vocab: int = 203, spread: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(tokens, vocab, generator=generator)
    return logits, torch.randint(vocab, (tokens,), generator=generator)


def run(operator: Any, logits: Tensor, labels: Tensor, grad: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Log-probs and the gradient of the logits; these are not a leaf, so that they may be written over."""
    leaf = logits.detach().clone().requires_grad_()
    logps = operator(leaf * 1, labels, **options)
    logps.backward(grad.to(logps))
    assert leaf.grad is not None
    return logps.detach().cpu().double(), leaf.grad.cpu().double()


def assert_exact(logits: Tensor, labels: Tensor, place: torch.device, temperature: float, **options: Any) -> None:
    """Log-probs as float64 has them; gradients within twice the error of plain PyTorch in the same dtype."""
    grad = torch.linspace(-1, 2, len(labels))
    logps, ours = run(token_logps, logits.to(place), labels.to(place), grad, temperature=temperature, **options)
    true_logps, truth = run(naive_token_logps, logits.double(), labels, grad, temperature=temperature)
    _, plain = run(naive_token_logps, logits, labels, grad, temperature=temperature)
    assert ((logps - true_logps).abs() <= 5e-6 * (1 + true_logps.abs())).all()
    assert (ours - truth).norm() <= 2 * (plain - truth).norm() + 1e-6 * truth.norm()


def rising(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks far above the first one, so that the kernel's reference has to move."""
    return logits + torch.linspace(0, 300, logits.shape[1]), labels


def certain(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits.scatter(1, labels[:, None], 40.0), labels


def hopeless(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits.scatter(1, labels[:, None], -55.0), labels


def forbidden(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The first block and more has probability 0."""
    logits[:, :100] = -torch.inf
    return logits, labels.clamp(min=100)


def skipped(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    labels[::2] = -100
    return logits, labels


REGIMES = {
    "random": lambda logits, labels: (logits, labels),
    "rising": rising,
    "certain": certain,
    "hopeless": hopeless,
    "shifted up": lambda logits, labels: (logits + 30, labels),
    "shifted down": lambda logits, labels: (logits - 30, labels),
    "forbidden": forbidden,
    "skipped": skipped,
    "all skipped": lambda logits, labels: (logits, torch.full_like(labels, -100)),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_in_every_regime(place: torch.device, dtype: torch.dtype, regime: str, inplace: bool) -> None:
    logits, labels = REGIMES[regime](*random_logits())
    assert_exact(logits.to(dtype), labels, place, temperature=0.8, inplace_backward=inplace)


@pytest.mark.slow
@pytest.mark.parametrize("inplace", [False, True])
def test_any_strides(place: torch.device, inplace: bool) -> None:
    logits, labels = random_logits()
    for strided in (logits.t().contiguous().t(), torch.stack([logits, logits], dim=2)[..., 1]):
        assert not strided.is_contiguous()
        assert_exact(strided, labels, place, temperature=1.0, inplace_backward=inplace)
    strided_labels = torch.stack([labels, torch.zeros_like(labels)], dim=1)[:, 0]
    assert not strided_labels.is_contiguous()
    assert_exact(logits, strided_labels, place, temperature=1.0, inplace_backward=inplace)


def test_inplace_backward_writes_over_the_logits(place: torch.device) -> None:
    logits, labels = (tensor.to(place) for tensor in random_logits())
    leaf = logits.clone().requires_grad_()
    made = leaf * 1
    token_logps(made, labels, inplace_backward=True).sum().backward()
    kept = logits.clone().requires_grad_()
    untouched = kept * 1
    token_logps(untouched, labels).sum().backward()
    assert torch.equal(untouched, logits)
    assert torch.equal(made, leaf.grad) and torch.equal(leaf.grad, kept.grad)


ROWS_APART: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "one row of stride 0": (1, lambda logits: logits.as_strided(logits.shape, (0, 1))),
    "one row of stride 1": (1, lambda logits: logits.as_strided(logits.shape, (1, 1))),
    "rows between others": (7, lambda logits: torch.nn.functional.pad(logits, (0, 3))[:, : logits.shape[1]]),
    "columns between others": (7, lambda logits: torch.nn.functional.pad(logits.t(), (0, 3))[:, :7].t()),
}


@pytest.mark.parametrize("layout", ROWS_APART)
def test_inplace_backward_takes_rows_that_do_not_overlap(place: torch.device, layout: str) -> None:
    tokens, arrange = ROWS_APART[layout]
    logits, labels = (tensor.to(place) for tensor in random_logits(tokens))
    grads = []
    for inplace in (False, True):
        leaf = logits.clone().requires_grad_()
        token_logps(arrange(leaf * 1), labels, inplace_backward=inplace).sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


def test_autograd_notices_who_still_needs_overwritten_logits(place: torch.device) -> None:
    logits, labels = (tensor.to(place) for tensor in random_logits())
    made = logits.requires_grad_() * 1
    loss = token_logps(made, labels, inplace_backward=True).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_autograd_notices_that_whatever_made_the_logits_needs_them(place: torch.device) -> None:
    logits, labels = (tensor.to(place) for tensor in random_logits())
    made = logits.requires_grad_().sigmoid()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        token_logps(made, labels, inplace_backward=True).sum().backward()


INPLACE_UNDER_COMPILE: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {
    "logits made outside": lambda z, labels, inplace: token_logps(z, labels, inplace_backward=inplace).sum(),
    "logits made inside": lambda z, labels, inplace: token_logps(z * 2, labels, inplace_backward=inplace).sum(),
    "logits needed by another term": lambda z, labels, inplace: (
        token_logps((made := z * 2), labels, inplace_backward=inplace).sum() + made.square().sum()
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", INPLACE_UNDER_COMPILE)
def test_compiled_inplace_backward_gives_the_gradient(what: str) -> None:
    logits, labels = random_logits()
    grads = []
    for inplace in (False, True):
        torch._dynamo.reset()
        compiled = torch.compile(INPLACE_UNDER_COMPILE[what], fullgraph=True, backend="aot_eager")
        leaf = logits.clone().requires_grad_()
        compiled(leaf * 1, labels, inplace).backward()
        assert torch.equal(leaf, logits)
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


def test_compiled_inplace_backward_refuses_a_parameter() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(INPLACE_UNDER_COMPILE["logits made outside"], backend="aot_eager")
    logits, labels = random_logits()
    with pytest.raises(ValueError, match="is a leaf that requires grad"):
        compiled(logits.requires_grad_(), labels, True)


def test_skipped_rows_are_not_read(place: torch.device) -> None:
    logits, labels = random_logits()
    logits[2], labels[2] = torch.nan, -100
    grad = torch.ones(len(labels)).index_fill(0, torch.tensor([2]), torch.nan)
    for inplace in (False, True):
        logps, gradient = run(token_logps, logits.to(place), labels.to(place), grad, inplace_backward=inplace)
        assert logps[2] == 0 and gradient[2].eq(0).all()
        assert logps.isfinite().all() and gradient.isfinite().all()


def test_the_specification_does_not_read_skipped_rows() -> None:
    logits, labels = random_logits()
    logits[2], logits[5], labels[2], labels[5] = torch.nan, torch.inf, -100, -100
    logps, gradient = run(naive_token_logps, logits, labels, torch.ones(len(labels)))
    assert logps[2] == logps[5] == 0 and gradient[[2, 5]].eq(0).all()
    assert logps.isfinite().all() and gradient.isfinite().all()


def test_no_tokens(place: torch.device) -> None:
    logits, labels = (tensor.to(place) for tensor in random_logits(tokens=0))
    logps, grad = run(token_logps, logits, labels, torch.zeros(0))
    assert logps.shape == (0,) and grad.shape == (0, 203)


@pytest.mark.parametrize("vocab", [50257, 128256, 151936, 256000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_vocabularies(
    place: torch.device, dtype: torch.dtype, vocab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "BLOCK", 4096)
    logits, _ = random_logits(tokens=3, vocab=vocab)
    assert_exact(logits.to(dtype), torch.tensor([0, vocab - 1, 12345]), place, temperature=1.0)


@pytest.mark.usefixtures("no_help_to_repeat")
def test_runs_repeat_bitwise(place: torch.device) -> None:
    logits, labels = (tensor.to(place) for tensor in random_logits())
    first, second = (run(token_logps, logits, labels, torch.ones(7)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    tokens=st.integers(0, 6),
    vocab=st.integers(2, 300),
    seed=st.integers(0, 2**16),
    temperature=st.floats(0.3, 3),
    skip=st.integers(1, 7),
)
def test_float64_equals_the_specification(tokens: int, vocab: int, seed: int, temperature: float, skip: int) -> None:
    logits, labels = random_logits(tokens, vocab, seed=seed)
    labels[::skip] = -100
    grad = torch.linspace(-1, 2, tokens)
    ours = run(token_logps, logits.double(), labels, grad, temperature=temperature)
    truth = run(naive_token_logps, logits.double(), labels, grad, temperature=temperature)
    for value, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(value, true, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", ["pytorch", "kernels"])
def test_opcheck_passes(request: pytest.FixtureRequest, path: str) -> None:
    place = request.getfixturevalue("device") if path == "kernels" else torch.device("cpu")
    logits, labels = (tensor.to(place) for tensor in random_logits(tokens=3, vocab=20))
    labels[1] = -100
    torch.library.opcheck(op._forward_op, (logits.requires_grad_(), labels, 0.7, False))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("inplace", [False, True])
def test_ten_lengths_compile_once(backend: str, inplace: bool) -> None:
    counter = CompileCounterWithBackend(backend)

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def compiled(logits: Tensor, labels: Tensor) -> Tensor:
        return token_logps(logits * 2, labels, inplace_backward=inplace)

    torch._dynamo.reset()
    compilations = set()
    for tokens in range(4, 14):
        logits, labels = random_logits(tokens, 50)
        leaf = logits.requires_grad_()
        logps = compiled(leaf, labels)
        (grad,) = torch.autograd.grad(logps.sum(), leaf)
        expected = token_logps(leaf * 2, labels)
        (expected_grad,) = torch.autograd.grad(expected.sum(), leaf)
        assert torch.equal(logps, expected) and torch.equal(grad, expected_grad)
        compilations.add(counter.frame_count)
    assert len(compilations) == 1, "a later length compiled again"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "three dimensions": ({"logits": torch.zeros(1, 3, 5)}, "logits has 3 dimensions"),
    "integers": ({"logits": torch.zeros(3, 5, dtype=torch.int64)}, "logits is torch.int64"),
    "too few labels": ({"labels": torch.zeros(2, dtype=torch.int64)}, "2 labels for 3 rows"),
    "labels of 32 bits": ({"labels": torch.zeros(3, dtype=torch.int32)}, r"pass labels.long\(\)"),
    "a large label": ({"labels": torch.full((3,), 5)}, r"labels\[0\] is 5: pass values in 0..4"),
    "a single token": ({"logits": torch.zeros(3, 1)}, "at least 2 tokens"),
    "temperature 0": ({"temperature": 0.0}, "temperature is 0.0"),
    "another device": ({"labels": torch.zeros(3, dtype=torch.int64, device="meta")}, "labels is on meta"),
    "a temperature below float32": ({"temperature": 1e-50}, "temperature is 1e-50"),
    "a temperature beyond float32": ({"temperature": 1e40}, r"temperature is 1e\+40"),
    "a parameter": ({"logits": torch.zeros(3, 5, requires_grad=True), "inplace_backward": True}, "is a leaf"),
    "part of a parameter": (
        {"logits": torch.zeros(4, 5, requires_grad=True)[:3].view(3, 5), "inplace_backward": True},
        "or a view of one",
    ),
    "shared memory": ({"logits": torch.zeros(1, 5).expand(3, 5), "inplace_backward": True}, "share memory"),
    "expanded columns": ({"logits": torch.zeros(3, 1).expand(3, 5), "inplace_backward": True}, "share memory"),
    "one expanded row": (
        {"logits": torch.zeros(1, 1).expand(1, 5), "labels": torch.tensor([2]), "inplace_backward": True},
        "share memory",
    ),
    "overlapping rows": ({"logits": torch.zeros(9).unfold(0, 5, 2), "inplace_backward": True}, "share memory"),
    "overlapping columns": ({"logits": torch.zeros(11).unfold(0, 3, 2).t(), "inplace_backward": True}, "share memory"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_arguments_raise_a_sentence(what: str) -> None:
    changes, sentence = REFUSED[what]
    given = {"logits": torch.zeros(3, 5), "labels": torch.zeros(3, dtype=torch.int64)} | changes
    with pytest.raises(ValueError, match=sentence):
        token_logps(given.pop("logits"), given.pop("labels"), **given)


def test_unchecked_label_beyond_the_vocabulary_gives_nan(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU without IWPO_DEBUG: nothing is read out of bounds, and the result says so."""
    monkeypatch.setattr(op, "checks_labels", lambda device: False)
    logits, labels = random_logits()
    labels[1], labels[4] = 203, -7
    logps, grad = run(token_logps, logits.to(device), labels.to(device), torch.ones(7))
    bad = torch.tensor([False, True, False, False, True, False, False])
    assert torch.equal(logps.isnan(), bad) and torch.equal(grad.isnan().all(1), bad)


def test_exponentials_of_logits_above_their_reference_err_by_less_than_half_of_what_is_allowed() -> None:
    """A GPU's exp is 2^(z·log2 e) with the product rounded, which the interpreter's is not."""
    slack = kernels.SLACK.value
    z = torch.linspace(0.0, slack, 2**20)
    on_a_gpu = (z * torch.log2(torch.tensor(torch.e, dtype=torch.float64)).float()).double().exp2()
    assert (on_a_gpu / z.double().exp() - 1).abs().max() <= 5e-6 / 2
    assert 300_000 * torch.tensor(slack).exp() < torch.finfo(torch.float32).max


@pytest.mark.gpu
def test_more_than_two_to_the_31_logits() -> None:
    tokens, vocab = 16384, 151936
    logits = torch.randn(tokens, vocab, device="cuda", dtype=torch.bfloat16).requires_grad_()
    labels = torch.randint(vocab, (tokens,), device="cuda")
    logps = token_logps(logits, labels)
    logps.sum().backward()
    last = logits.detach()[-4:].double().requires_grad_()
    truth = naive_token_logps(last, labels[-4:])
    truth.sum().backward()
    torch.testing.assert_close(logps[-4:].double(), truth, rtol=5e-6, atol=5e-6)
    torch.testing.assert_close(logits.grad[-4:].double(), last.grad, rtol=1e-2, atol=1e-8)
