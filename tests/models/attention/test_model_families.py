"""With every backend, models compute what they compute with their own attention over padded batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_cases import ON_GPU, skip_if_absent
from families import assert_same_gradients, gradients
from torch import Tensor

from iwpo_fast.config import ModelConfig
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.attention import BACKENDS
from iwpo_fast.models.attention.metadata import BY_LENGTH
from iwpo_fast.world import World

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen2_with_window": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", {}),
    "mistral_with_window": ("mistral", {"sliding_window": 4}),
    "gemma2": ("gemma2", {}),
    "gemma2_without_softcap": ("gemma2", {"attn_logit_softcapping": None}),
    "gemma3": ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"]}),
    "phi3": ("phi3", {}),
    "phi3_with_window": ("phi3", {"sliding_window": 4}),
}
"""Family and changes to it; where there is a window it is shorter than the longest sequence, which has 11 tokens."""

WITH_SOFTCAP = {"gemma2"}


def padded_eager(policy: Policy, batch: FlatBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Hidden states, log-probs and their gradients from padded batches and the attention written out in the model."""
    policy.native_attention = "eager"
    policy.run_padded("for comparison")
    logps = policy(batch)
    return policy.hidden_states(batch), logps, gradients(logps.cpu(), policy)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("backend", BY_LENGTH)
def test_hidden_states_and_gradients_are_those_of_padded_eager_attention(policy_of, batch, model, backend) -> None:
    family, changes = MODELS[model]
    hidden, logps, exact = padded_eager(policy_of(family, changes=changes, batch_layout="padded"), batch)
    if model in WITH_SOFTCAP and backend == "sdpa_by_length":
        with pytest.raises(ValueError, match=r"attention is sdpa_by_length but .* cannot run with it, .*no softcap"):
            policy_of(family, changes=changes, attention=backend)
        return
    for share_prompts in (True, False):
        policy = policy_of(family, changes=changes, attention=backend, share_prompts=share_prompts)
        assert (policy.layout, policy.attention) == ("shared" if share_prompts else "flat", backend)
        ours = policy(batch)
        assert (policy.hidden_states(batch) - hidden).abs().max() <= 5e-6 * hidden.abs().max()
        assert ((ours - logps).abs() <= 5e-6 * (1 + logps.abs())).all()
        assert_same_gradients(gradients(ours, policy), exact)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("backend", [pytest.param(name, marks=ON_GPU) for name in BACKENDS])
def test_a_gpu_errs_no_more_than_with_padded_eager_attention(
    policy_of, batch, tmp_path, tokenizer, model, backend
) -> None:
    """In bf16, against float32 on the CPU."""
    device = torch.device("cuda")
    skip_if_absent(backend, device, torch.bfloat16)
    family, changes = MODELS[model]
    hidden, logps, exact = padded_eager(policy_of(family, changes=changes, batch_layout="padded"), batch)
    on_device = batch.to(device)
    for share_prompts in (True, False):
        config = ModelConfig(path=str(tmp_path / family), attention=backend, share_prompts=share_prompts)
        if model in WITH_SOFTCAP and backend in ("sdpa_by_length", "varlen"):
            with pytest.raises(ValueError, match="no softcap"):
                load_policy(config, tokenizer, World(0, 1, device), seed=3, max_length=20)
            continue
        policy = load_policy(config, tokenizer, World(0, 1, device), seed=3, max_length=20)
        found = policy.hidden_states(on_device), policy(on_device)
        found = (*found, gradients(found[1].cpu(), policy))
        yardstick = padded_eager(policy, on_device)
        for ours, theirs, truth in zip(found[:2], yardstick[:2], (hidden, logps), strict=True):
            assert _error(ours, truth) <= 2 * _error(theirs, truth) + 1e-3
        for name, gradient in exact.items():
            assert _error(found[2][name], gradient) <= 2 * _error(yardstick[2][name], gradient) + 1e-2


def _error(found: Tensor, truth: Tensor) -> float:
    """Relative to the largest value."""
    return ((found.cpu().float() - truth).norm() / truth.norm()).item()
