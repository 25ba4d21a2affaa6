"""What only a GPU can show: real sizes, wide products, streams, devices and graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from iwpo_kernels import linear_token_logps
from iwpo_kernels.linear_token_logps import naive_linear_token_logps

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_help_to_repeat")]

TOKENS, FEATURES, VOCAB = 8192, 4096, 151936
MIB = 2**20
HEAD_START = 800_000_000  # cycles, about 0.4 s, by which the GPU is later than the host


def problem(
    tokens: int, features: int, vocab: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda"
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and labels; logits have a standard deviation of 2."""
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(tokens, features, device=device, generator=generator).to(dtype)
    weight = torch.empty(vocab, features, device=device, dtype=dtype).normal_(0, 2 / features**0.5, generator=generator)
    return hidden.requires_grad_(), weight, torch.randint(vocab, (tokens,), device=device, generator=generator)


def logps_and_gradients(hidden: Tensor, weight: Tensor, labels: Tensor) -> list[Tensor]:
    """Log-probs, and gradients of what wants one, of a weighted sum of them."""
    logps = linear_token_logps(hidden, weight, labels, all_served=True)
    leaves = [leaf for leaf in (hidden, weight) if leaf.requires_grad]
    direction = torch.linspace(-1, 2, len(labels), device=logps.device)
    return [logps.detach(), *torch.autograd.grad(logps, leaves, direction)]


def milliseconds(call: Callable[[], Any]) -> float:
    """The shortest of three runs, after one that warms up; the GPU is never left to wait for a host that is busy."""
    call()
    times = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(HEAD_START)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)


def test_a_frozen_head_of_real_size_costs_less_than_twice_its_products_and_is_exact() -> None:
    hidden, weight, labels = problem(TOKENS, FEATURES, VOCAB)
    ours = milliseconds(lambda: logps_and_gradients(hidden, weight, labels))
    product = milliseconds(lambda: hidden.detach() @ weight.T)
    assert ours < 2 * 2 * product
    logps, _ = logps_and_gradients(hidden, weight, labels)
    some = slice(None, None, TOKENS // 8)
    truth = naive_linear_token_logps(hidden.detach()[some].double(), weight.double(), labels[some])
    torch.testing.assert_close(logps[some].double(), truth, rtol=5e-6, atol=5e-6)


def test_a_frozen_head_of_real_size_takes_512_mib_beside_its_inputs() -> None:
    hidden, weight, labels = problem(TOKENS, FEATURES, VOCAB)
    logps_and_gradients(hidden, weight, labels)  # cuBLAS takes its own memory, once
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logps_and_gradients(hidden, weight, labels)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before <= 512 * MIB


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
def test_calls_of_real_size_repeat_bitwise(trainable: bool) -> None:
    hidden, weight, labels = problem(TOKENS // 2 if trainable else TOKENS, FEATURES, VOCAB)
    weight.requires_grad_(trainable)
    once = logps_and_gradients(hidden, weight, labels)
    again = logps_and_gradients(hidden, weight, labels)
    assert len(once) == 2 + trainable
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.fixture
def factors(monkeypatch: pytest.MonkeyPatch) -> set[tuple[torch.dtype, ...]]:
    """Types of the two factors of every matrix product; a backward pass has a thread of its own, which no mode sees."""
    found: set[tuple[torch.dtype, ...]] = set()

    def watched(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **options: Any) -> Tensor:
            found.add(tuple(arg.dtype for arg in args if isinstance(arg, Tensor))[-2:])
            return product(*args, **options)

        return call

    for name in ("mm", "addmm", "bmm", "baddbmm", "matmul"):
        monkeypatch.setattr(torch, name, watched(getattr(torch, name)))
    return found


@pytest.mark.skipif(torch.version.hip is not None, reason="not every ROCm has a 16-bit product with 32-bit output")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_product_of_16_bit_inputs_is_computed_from_32_bit_copies(
    dtype: torch.dtype, factors: set[tuple[torch.dtype, ...]]
) -> None:
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")
    hidden, weight, labels = problem(512, 256, 4096, dtype)
    logps_and_gradients(hidden, weight, labels)
    assert factors == {(dtype, dtype)}


def test_all_kernels_run_on_the_stream_of_the_caller() -> None:
    """Inputs arrive late on that stream, so that a kernel on another one would not see them."""
    hidden, weight, labels = problem(700, 256, 5000)
    expected = logps_and_gradients(hidden, weight, labels)
    late = torch.zeros_like(hidden).requires_grad_()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        logps_and_gradients(hidden, weight, labels)  # this stream's memory and workspace
    was_ahead = False
    for longer in (1, 10, 50):  # for a host that is busy
        late.data.zero_()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(longer * HEAD_START)
            late.data.copy_(hidden.data)
            found = logps_and_gradients(late, weight, labels)
            was_ahead = not stream.query()
        stream.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        if was_ahead:
            break
    assert was_ahead, "the host did not wait"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one_serves_its_tensors() -> None:
    expected = logps_and_gradients(*problem(700, 256, 5000, device="cuda:0"))
    with torch.cuda.device(0):
        inputs = [
            x.detach().to("cuda:1").requires_grad_(x.requires_grad) for x in problem(700, 256, 5000, device="cuda:0")
        ]
        found = logps_and_gradients(*inputs)
        assert torch.cuda.current_device() == 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.device == torch.device("cuda:1")
        torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=1e-5, atol=1e-5 if ours.dtype.itemsize == 4 else 1e-2)


@pytest.mark.parametrize("skips", [False, True])
def test_the_compilers_graphs_leave_the_operator_out(skips: bool) -> None:
    """Also where the process calls it for the first time, and where labels are to be counted."""
    hidden, weight, labels = problem(700, 256, 5000)
    if skips:
        labels[3] = -100

    @torch.compile(mode="reduce-overhead", fullgraph=True)
    def compiled(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return linear_token_logps(hidden * 2, weight, labels, all_served=not skips) * 3

    expected = linear_token_logps(hidden * 2, weight, labels) * 3
    for _ in range(3):
        found = compiled(hidden, weight, labels)
        (gradient,) = torch.autograd.grad(found.sum(), hidden)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), hidden)[0])


def test_a_captured_graph_computes_what_a_call_does() -> None:
    hidden, weight, labels = problem(700, 256, 5000)
    other = torch.randn_like(hidden.detach())
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(2):
            logps_and_gradients(hidden, weight, labels)
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    direction = torch.linspace(-1, 2, len(labels), device="cuda")
    with torch.cuda.graph(graph):
        logps = linear_token_logps(hidden, weight, labels, all_served=True)
        (gradient,) = torch.autograd.grad(logps, hidden, direction)
    for values in (hidden.detach().clone(), other):
        hidden.data.copy_(values)
        graph.replay()
        ours = [logps.detach().clone(), gradient.clone()]
        expected = logps_and_gradients(hidden, weight, labels)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
