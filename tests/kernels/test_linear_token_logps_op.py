"""`linear_token_logps` as PyTorch sees it, and what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from iwpo_kernels.linear_token_logps import linear_token_logps, linear_token_statistics, op, saving, tiling
from iwpo_kernels.linear_token_logps.types import Kept

T, H, V = 6, 8, 128


def arguments(**changes: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    given = {
        "hidden": torch.randn(T, H, generator=generator),
        "head_weight": torch.randn(V, H, generator=generator),
        "labels": torch.randint(V, (T,), generator=generator),
    }
    return given | changes


@pytest.mark.slow
@pytest.mark.parametrize("path", ["pytorch", "kernels"])
@pytest.mark.parametrize("save", [False, True])
def test_opcheck_passes(request: pytest.FixtureRequest, path: str, save: bool) -> None:
    place = request.getfixturevalue("device") if path == "kernels" else torch.device("cpu")
    hidden, weight, labels = (tensor.to(place) for tensor in arguments().values())
    index = torch.tensor([0, 0, 5, 3, 3, 1], device=place)
    bias = torch.zeros(V, device=place)
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    labels[2] = -100
    torch.library.opcheck(op._forward_op, (*leaves[:2], labels, leaves[2], index, 3.0, 0.5, 1.0, True, 256, True, save))


def test_kernels_need_not_count_labels_that_are_all_served(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, labels = (tensor.to(device) for tensor in arguments().values())
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    index = torch.tensor([0, 0, 5, 3, 3, 1], device=device)
    expected = linear_token_logps(*leaves, labels, hidden_index=index)
    gradients = torch.autograd.grad(expected.sum(), leaves)
    monkeypatch.setattr(torch.Tensor, "nonzero", lambda self: pytest.fail("the labels were counted"))
    found = linear_token_logps(*leaves, labels, hidden_index=index, all_served=True)
    assert torch.equal(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found.sum(), leaves), gradients, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("all_served", [True, False])
def test_the_host_waits_once_for_both_passes_and_never_where_all_are_served(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, save: bool, all_served: bool
) -> None:
    """What checks labels on a CPU left aside. The backward pass asks for the count with `int`, which is the host's."""
    waits: list[str] = []

    def recorded(name: str) -> Callable[[torch.Tensor], Any]:
        read = getattr(torch.Tensor, name)
        return lambda tensor: (waits.append(name), read(tensor))[1]

    for name in ("nonzero", "item", "tolist", "__bool__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, recorded(name))
    monkeypatch.setattr(op, "checks_labels", lambda device: False)
    hidden, weight, labels = (tensor.to(device) for tensor in arguments().values())
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    if not all_served:
        labels[2] = -100
    logps = linear_token_logps(*leaves, labels, save=save, all_served=all_served)
    torch.autograd.grad(logps.sum(), leaves)
    assert waits == ([] if all_served else ["nonzero"])


def test_counting_labels_while_a_graph_is_captured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Captured(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    labels = torch.zeros(3, dtype=torch.int64).as_subclass(Captured)
    with pytest.raises(ValueError, match="pass the other labels alone, with hidden_index, and all_served=True"):
        Kept.of(labels, all_served=False)
    assert Kept.of(labels, all_served=True).count.shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_ten_lengths_compile_once(backend: str) -> None:
    counter = CompileCounterWithBackend(backend)

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def compiled(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> Any:
        return linear_token_statistics(hidden * 2, weight, labels, hidden_index=index, log_sum_exp=True)

    torch._dynamo.reset()
    weight = torch.randn(V, H).requires_grad_()
    compilations = set()
    for tokens in range(4, 14):
        hidden = torch.randn(tokens, H).requires_grad_()
        labels, index = torch.randint(V, (tokens + 3,)), torch.randint(tokens, (tokens + 3,))
        labels[1] = -100
        values = compiled(hidden, weight, labels, index)
        expected = linear_token_statistics(hidden * 2, weight, labels, hidden_index=index, log_sum_exp=True)
        assert all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))
        ours = torch.autograd.grad(values.logps.sum(), (hidden, weight))
        theirs = torch.autograd.grad(expected.logps.sum(), (hidden, weight))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
        compilations.add(counter.frame_count)
    assert len(compilations) == 1, "a later length compiled again"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "hidden of three dimensions": ({"hidden": torch.zeros(1, T, H)}, "hidden has 3 dimensions and labels 1"),
    "hidden of one dimension": ({"hidden": torch.zeros(T)}, "hidden has 1 dimensions"),
    "weight of one dimension": ({"head_weight": torch.zeros(V)}, "weight has 1 dimensions"),
    "another width": ({"head_weight": torch.zeros(V, H + 1)}, "hidden has 8 features and head_weight 9"),
    "a single token": ({"head_weight": torch.zeros(1, H)}, "at least 2 tokens"),
    "no hidden features": ({"hidden": torch.zeros(T, 0), "head_weight": torch.zeros(V, 0)}, "weight has no columns"),
    "integers": ({"hidden": torch.zeros(T, H, dtype=torch.int64)}, "hidden is torch.int64"),
    "two dtypes": ({"head_weight": torch.zeros(V, H, dtype=torch.bfloat16)}, "cast one of them"),
    "short labels": ({"labels": torch.zeros(T - 1, dtype=torch.int64)}, "5 labels for 6 rows"),
    "labels of 32 bits": ({"labels": torch.zeros(T, dtype=torch.int32)}, r"pass labels.long\(\)"),
    "labels of two dimensions": ({"labels": torch.zeros(T, 1, dtype=torch.int64)}, "labels has 2 dimensions"),
    "a short index": ({"hidden_index": torch.zeros(T - 1, dtype=torch.int64)}, "5 entries for 6 labels"),
    "a short bias": ({"bias": torch.zeros(V - 1)}, "one per row of head_weight"),
    "bias of another dtype": ({"bias": torch.zeros(V, dtype=torch.bfloat16)}, "bias is torch.bfloat16"),
    "a large label": ({"labels": torch.full((T,), V)}, r"labels\[0\] is 128: pass values in 0..127"),
    "a negative label": ({"labels": torch.full((T,), -1)}, r"labels\[0\] is -1"),
    "an index beyond hidden": ({"hidden_index": torch.full((T,), T)}, r"hidden_index\[0\] is 6"),
    "another device": ({"head_weight": torch.zeros(V, H, device="meta")}, "weight is on meta"),
    "softcap 0": ({"softcap": 0.0}, "softcap is 0.0"),
    "scale 0": ({"scale": 0.0}, "scale is 0.0"),
    "temperature 0": ({"temperature": 0.0}, "temperature is 0.0"),
    "softcap beyond float32": ({"softcap": 1e40}, r"softcap is 1e\+40"),
    "scale below float32": ({"scale": -1e-50}, "scale is -1e-50"),
    "scale beyond all numbers": ({"scale": float("inf")}, "scale is inf"),
    "scale of no number": ({"scale": float("nan")}, "scale is nan"),
    "temperature below float32": ({"temperature": 1e-50}, "temperature is 1e-50"),
    "no workspace": ({"workspace_mb": 0}, "workspace_mb is 0"),
    "half a MiB": ({"workspace_mb": 0.5}, "workspace_mb is 0.5: pass a whole number"),
    "a workspace in words": ({"workspace_mb": "256"}, "workspace_mb is '256'"),
    "a workspace of True": ({"workspace_mb": True}, "workspace_mb is True"),
    "an unknown way to save": ({"save": "always"}, "save is 'always'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_arguments_raise_a_sentence(what: str) -> None:
    changes, sentence = REFUSED[what]
    with pytest.raises(ValueError, match=sentence):
        linear_token_logps(**arguments(**changes))


def test_unchecked_label_beyond_the_vocabulary_gives_nan(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU without IWPO_DEBUG: nothing is read out of bounds, and the result says so."""
    monkeypatch.setattr(op, "checks_labels", lambda device: False)
    given = {name: tensor.to(device) for name, tensor in arguments().items()}
    given["labels"][1], given["labels"][4] = V, -7
    given["hidden"].requires_grad_()
    logps = linear_token_logps(**given)
    (grad,) = torch.autograd.grad(logps.sum(), given["hidden"])
    bad = torch.zeros(T, dtype=torch.bool, device=device).index_fill(0, torch.tensor([1, 4], device=device), True)
    assert torch.equal(logps.isnan(), bad)
    assert torch.equal(grad.isnan().all(1), bad) and torch.equal(grad.isnan().any(1), bad)


@pytest.mark.gpu
def test_debug_flag_checks_labels_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IWPO_DEBUG", "1")
    given = {name: tensor.cuda() for name, tensor in arguments().items()}
    given["labels"][1] = V
    with pytest.raises(ValueError, match=r"labels\[1\] is 128"):
        linear_token_logps(**given)


def saved_elements(run: Callable[[], torch.Tensor]) -> int:
    """Largest tensor that autograd keeps."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda x: x):
        run()
    return max(sizes)


def test_automatic_saving_goes_by_memory_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = arguments(hidden=torch.randn(300, H), labels=torch.randint(V, (300,)))
    given["head_weight"].requires_grad_()
    memory = 300 * V * 4 * saving.SAVED_SHARE_OF_MEMORY
    for available, kept in ((memory, 300 * V), (memory - 1, 300 * H)):
        monkeypatch.setattr(saving, "memory_of", lambda device, available=available: available)
        saving._log_once.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert saved_elements(lambda: linear_token_logps(**given)) == kept
            linear_token_logps(**given)
        assert len(caplog.records) == 1
        assert ("recomputes" in caplog.text) == (kept == 300 * H)


@pytest.mark.slow
def test_automatic_saving_also_goes_by_memory_under_compile(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saving, "memory_of", lambda device: 300 * V * 4 * saving.SAVED_SHARE_OF_MEMORY)
    saving._log_once.cache_clear()
    counter = CompileCounterWithBackend("aot_eager")
    weight = torch.randn(V, H).requires_grad_()

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def compiled(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logps = linear_token_logps(hidden, weight, labels)
        return logps

    torch._dynamo.reset()
    compilations = []
    with caplog.at_level(logging.INFO, "iwpo_kernels"):
        for tokens in (290, 299, 300, 301, 400, 250, 500):
            hidden, labels = torch.randn(tokens, H), torch.randint(V, (tokens,))
            kept = saved_elements(lambda hidden=hidden, labels=labels: compiled(hidden, labels))
            assert kept == (tokens * V if tokens <= 300 else tokens * H)
            compilations.append(counter.frame_count)
    assert compilations[0] == compilations[2] < compilations[3] == compilations[-1]
    assert ["recomputes" in record.message for record in caplog.records] == [False, True]


@pytest.mark.slow
@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_a_number_of_labels_known_only_at_run_time_compiles() -> None:
    torch._dynamo.reset()
    given = arguments()
    given["labels"][2] = -100
    leaves = [given["hidden"].requires_grad_(), given["head_weight"].requires_grad_()]

    def selecting(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        kept = (labels != -100).nonzero()[:, 0]
        logps = linear_token_logps(hidden, weight, labels[kept], hidden_index=kept)
        return logps

    ours = torch.compile(selecting, fullgraph=True, dynamic=True, backend="aot_eager")(*leaves, given["labels"])
    truth = selecting(*leaves, given["labels"])
    assert torch.equal(ours, truth)
    for a, b in zip(*(torch.autograd.grad(logps.sum(), leaves) for logps in (ours, truth)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_cpu_uses_at_most_32_mib_of_the_workspace() -> None:
    most = tiling.cpu_tiling(2048, 256000, 4, 32)
    assert tiling.cpu_tiling(2048, 256000, 4, 4096) == most != tiling.cpu_tiling(2048, 256000, 4, 16)
    assert most.rows * most.width * 4 <= 32 << 20


def test_frozen_head_keeps_only_the_jacobian() -> None:
    given = arguments(hidden=torch.randn(300, H).requires_grad_(), labels=torch.randint(V, (300,)))
    assert saved_elements(lambda: linear_token_logps(**given)) == 300 * H
