"""Recomputed and compiled layers: the same log-probs and gradients, in fewer bytes, compiled once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from families import LAYOUTS, assert_same_gradients, gradients
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from iwpo_fast.config import LoraConfig, ModelConfig
from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import layers, load_policy
from iwpo_fast.models.layers import checkpoint_layer, decoder_layers
from iwpo_fast.world import World


class Living(TorchDispatchMode):
    """Counts the bytes that operators have allocated since and that something still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.storages = WeakIdKeyDictionary()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage] = storage.nbytes()
        return output

    @property
    def bytes(self) -> int:
        return sum(self.storages.values())


def run(policy, batch) -> tuple[Mapping[str, Tensor], int]:
    with Living() as living:
        logps = policy(batch)
        kept = living.bytes
    return gradients(logps, policy) | {"log-probs": logps.detach()}, kept


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_recomputing_more_keeps_less_and_changes_no_bit(policy_of, batch, lora, options) -> None:
    expected, none = run(policy_of("llama", lora=lora, **options), batch)
    kept = {}
    for mode in ("selective", "full"):
        found, kept[mode] = run(policy_of("llama", lora=lora, **options, gradient_checkpointing=mode), batch)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert kept["full"] < 0.7 * kept["selective"] and kept["selective"] < 0.85 * none


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma2", "gpt2", "phi3", "cohere"])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_layers_of_other_families_are_recomputed_too(policy_of, batch, family, mode) -> None:
    expected, none = run(policy_of(family), batch)
    found, kept = run(policy_of(family, gradient_checkpointing=mode), batch)
    assert kept < 0.9 * none
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_selective_layers_run_no_product_and_no_attention_again(policy_of, batch) -> None:
    def expensive_in_backward(mode: str) -> int:
        policy, count = policy_of("llama", share_prompts=False, gradient_checkpointing=mode), 0
        logps = policy(batch)

        class Counting(TorchDispatchMode):
            def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                nonlocal count
                count += any(word in str(operator) for word in ("aten.mm", "flash_attention"))
                return operator(*args, **(kwargs or {}))

        with Counting():
            gradients(logps, policy)
        return count

    none, selective, full = (expensive_in_backward(mode) for mode in ("none", "selective", "full"))
    assert none == selective < full


def test_parameters_keep_their_names(policy_of) -> None:
    plain, changed = policy_of("llama"), policy_of("llama", gradient_checkpointing="full", compile=True)
    assert plain.state_dict().keys() == changed.state_dict().keys()


def test_only_the_input_of_each_layer_goes_to_the_host(policy_of, batch, monkeypatch) -> None:
    expected, _ = run(policy_of("llama", share_prompts=False), batch)
    policy = policy_of("llama", share_prompts=False)
    for layer in decoder_layers(policy.head.decoder):
        checkpoint_layer(layer, "full", offload=True)
    moved = []

    class Recording(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pin_memory: bool) -> None:
            super().__init__(lambda tensor: moved.append(tensor.shape) or tensor, lambda tensor: tensor)

    with monkeypatch.context() as patch:
        patch.setattr(layers, "save_on_cpu", Recording)
        found, _ = run(policy, batch)
    tokens = int(batch.cu_seqlens[-1])
    assert [shape for shape in moved if shape.numel()] == [(1, tokens, 32)] * 2  # PyTorch 2.11 adds an empty tensor
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    really, _ = run(policy, batch)
    assert all(torch.equal(really[name], expected[name]) for name in expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
def test_offloaded_inputs_of_layers_leave_the_gpu(tokenizer, batch) -> None:
    held, found = {}, {}
    for offload in (False, True):
        config = ModelConfig(gradient_checkpointing="full", offload_activations=offload)
        policy = load_policy(config, tokenizer, World(0, 1, torch.device("cuda")), seed=0)
        on_device = batch.to(policy.device)
        before = torch.cuda.memory_allocated()
        logps = policy(on_device)
        held[offload] = torch.cuda.memory_allocated() - before
        found[offload] = gradients(logps.cpu(), policy)
    assert held[True] < held[False]
    assert all(torch.equal(found[True][name], found[False][name]) for name in found[True])


def test_offloading_is_refused_on_a_cpu(tokenizer) -> None:
    config = ModelConfig(gradient_checkpointing="full", offload_activations=True)
    with pytest.raises(ValueError, match=r"model\.offload_activations is true but the model runs on a CPU"):
        load_policy(config, tokenizer, World(0, 1, torch.device("cpu")), seed=0)


@pytest.fixture
def compiler(monkeypatch) -> Iterator[CompileCounterWithBackend]:
    """Counts the graphs that are compiled, and runs them as they are."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(layers, "COMPILER", counter)
    yield counter
    torch._dynamo.reset()


def random_batch(vocabulary: int, seed: int) -> FlatBatch:
    """Pairs of random lengths, together longer than any size of the model, for equal sizes are compiled as equal."""
    rng = np.random.default_rng(seed)
    count = 10 + seed
    texts = (
        Ragged.from_rows([rng.integers(0, vocabulary, rng.integers(1, 10)) for _ in range(count)]) for _ in range(3)
    )
    return flat_batch(Pairs(*texts, weight=np.ones(count)), np.arange(count))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"),
    [
        pytest.param(
            "llama",
            {"lora": LoraConfig(rank=2), "gradient_checkpointing": "full"},
            marks=pytest.mark.skipif(
                torch.__version__ < (2, 12),
                reason=f"PyTorch {torch.__version__} compiles again for other rectangles, which a CPU has",
            ),
        ),
        ("gpt2", {"batch_layout": "padded"}),
    ],
    ids=["flat, lora, recomputed", "padded"],
)
def test_layers_are_compiled_once_for_all_lengths_and_agree(policy_of, tokenizer, compiler, family, options) -> None:
    plain, compiled = policy_of(family, **options), policy_of(family, **options, compile=True)
    graphs = []
    for seed in range(4):
        batch = random_batch(len(tokenizer), seed)
        expected, found = plain(batch), compiled(batch)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        assert_same_gradients(gradients(found, compiled), gradients(expected, plain))
        with torch.no_grad():
            torch.testing.assert_close(compiled(batch), plain(batch), rtol=0, atol=2e-5)
        graphs.append(compiler.frame_count)
    assert 0 < graphs[0] == graphs[-1] <= 14


@pytest.mark.slow
def test_a_lent_model_is_not_compiled(policy_of, batch, compiler) -> None:
    policy = policy_of("llama", compile=True)
    with policy.plain_attention() as model, torch.no_grad():
        model.generate(batch.input_ids[None, :4], max_new_tokens=3, do_sample=False)
    assert compiler.frame_count == 0
    policy(batch)
    assert compiler.frame_count > 0


def test_compiling_on_a_cpu_without_a_compiler_is_refused(tokenizer, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "absent-compiler")
    with pytest.raises(ValueError, match=r"model\.compile is true but there is no compiler called absent-compiler"):
        load_policy(ModelConfig(compile=True), tokenizer, World(0, 1, torch.device("cpu")), seed=0)
