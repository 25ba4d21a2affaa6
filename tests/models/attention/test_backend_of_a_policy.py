"""Which backend a loaded model has, and what the settings can ask for."""

from __future__ import annotations

import functools
import sys
from typing import Any

import pytest
import torch
from families import plain_logps
from flash_stand_ins import VERSIONS, install, version_3

from iwpo_fast.config import LoraConfig
from iwpo_fast.models import load
from iwpo_fast.models.attention import BACKENDS, choice
from iwpo_fast.models.probe import largest_error

QWEN_MOE = {
    "model_type": "qwen2_moe", "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "use_sliding_window": True, "max_window_layers": 2,
}  # fmt: skip
"""Its layers know their window but do not hand it on."""


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice of a Hopper GPU without flash-attn, on a CPU."""
    monkeypatch.setattr(choice, "suited", lambda device, dtype: list(BACKENDS))
    for module in ("flash_attn", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.slow
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("backend", VERSIONS)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3_text", "phi3"])
def test_flash_attn_runs_windows_and_softcaps_of_a_model(policy_of, batch, monkeypatch, backend, family) -> None:
    """Its error is that of the model's own attention in bf16; both are compared with float32."""
    install(monkeypatch, backend, VERSIONS[backend][0])
    changes = {} if family in ("llama", "gemma2") else {"sliding_window": 4}
    with policy_of(family, changes=changes).plain_attention() as model:
        exact = plain_logps(model, batch)
    policy = policy_of(family, changes=changes, precision="bf16")
    assert (policy.layout, policy.attention) == ("shared", backend)
    absent = "not flash_attn_3: flash_attn_interface is not installed"
    assert policy.attention_reason == ("" if backend == "flash_attn_3" else absent)
    ours = policy(batch)
    policy.run_padded("for comparison")
    theirs = policy(batch)
    assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm()
    assert (ours - theirs).norm() <= 1.5 * (theirs - exact).norm()


@pytest.mark.usefixtures("hopper")
def test_a_softcap_falls_to_the_backend_that_has_it(policy_of) -> None:
    policy = policy_of("gemma2", precision="bf16")
    assert (policy.layout, policy.attention) == ("shared", "eager_by_length")
    assert policy.attention_reason == (
        "not flash_attn_3: flash_attn_interface is not installed, not flash_attn_2: flash_attn is not installed, "
        "not varlen: PyTorch's varlen attention has no softcap, "
        "not sdpa_by_length: scaled dot-product attention has no softcap"
    )


@pytest.mark.slow
def test_a_window_that_layers_keep_to_themselves_is_found_out_where_sequences_outgrow_it(policy_of, batch) -> None:
    """The self-test's own sequences would fit into it."""
    policy = policy_of("llama", changes=QWEN_MOE | {"sliding_window": 9}, max_length=20)
    assert policy.layout == "padded" and "its log-probs would differ" in policy.layout_reason
    assert policy_of("llama", changes=QWEN_MOE | {"sliding_window": 9}, max_length=None).layout == "padded"
    policy = policy_of("llama", changes=QWEN_MOE | {"sliding_window": 20}, max_length=20)
    assert policy.layout == "shared"
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
    assert ((policy(batch) - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()


@pytest.mark.parametrize("max_length", [20, None])
def test_the_self_test_leaves_windows_as_they_were(policy_of, max_length) -> None:
    model = policy_of("gemma3_text", changes={"sliding_window": 4}, max_length=max_length).causal_lm
    assert model.config.sliding_window == 4
    assert {layer.self_attn.sliding_window for layer in model.model.layers} == {4}


def test_a_backend_can_be_asked_for(policy_of) -> None:
    policy = policy_of("llama", attention="eager_by_length")
    assert (policy.layout, policy.attention, policy.attention_reason) == ("shared", "eager_by_length", "asked for")


@pytest.mark.parametrize(
    ("family", "options", "error"),
    [
        ("llama", {"attention": "varlen"}, "attention is varlen, which is made for half precision .* float32 on cpu"),
        (
            "gemma2",
            {"attention": "sdpa_by_length"},
            "is sdpa_by_length but .* cannot run with it, .* no softcap",
        ),
        ("llama", {"attention": "sdpa_by_length", "batch_layout": "padded"}, "but model.batch_layout is padded, where"),
    ],
)
def test_a_backend_that_cannot_do_it_is_refused(policy_of, family, options, error) -> None:
    with pytest.raises(ValueError, match=error):
        policy_of(family, **options)


def test_a_backend_for_other_machines_is_refused_before_the_model_is_read(monkeypatch, policy_of) -> None:
    monkeypatch.setattr(load, "_new_policy", lambda *args: pytest.fail("the model was read"))
    with pytest.raises(ValueError, match="flash_attn_2, which is made for half precision on CUDA and ROCm GPUs"):
        policy_of("llama", attention="flash_attn_2")


class WithoutBackward(torch.autograd.Function):
    """What is missing from builds that run a head size forward only."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor) -> torch.Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("FlashAttention backward was built without head size 8.\nException raised from run_mha_bwd")


@functools.wraps(version_3)
def forward_only(*args: Any, **options: Any) -> torch.Tensor:
    return WithoutBackward.apply(version_3(*args, **options))


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("share_prompts", [True, False])
def test_an_attention_without_its_backward_pass_is_passed_over_before_the_first_step(
    policy_of, batch, monkeypatch, share_prompts
) -> None:
    install(monkeypatch, "flash_attn_3", forward_only)
    install(monkeypatch, "flash_attn_2", VERSIONS["flash_attn_2"][0])
    policy = policy_of("llama", precision="bf16", share_prompts=share_prompts)
    assert policy.attention == "flash_attn_2"
    assert policy.attention_reason == (
        "not flash_attn_3: the backward pass of flash_attn_3 refuses it "
        "(FlashAttention backward was built without head size 8)"
    )
    policy(batch).sum().backward()


@pytest.mark.usefixtures("hopper")
def test_too_little_memory_for_a_backward_pass_is_no_reason_to_take_another_attention(policy_of, monkeypatch) -> None:
    def hungry(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(WithoutBackward, "backward", staticmethod(hungry))
    install(monkeypatch, "flash_attn_3", forward_only)
    with pytest.raises(torch.OutOfMemoryError):
        policy_of("llama", precision="bf16")


def test_the_rehearsal_of_the_backward_pass_leaves_no_trace(policy_of, batch) -> None:
    policy = policy_of("llama", lora=LoraConfig(rank=2))
    before = torch.random.get_rng_state()
    assert largest_error(policy) < 1e-3
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert not policy.ready(batch).tables.rehearsal
