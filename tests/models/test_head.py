"""Log-probs and gradients without logits are those of each family's own logits."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, assert_same_gradients, gradients, plain_logps
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, LlamaForCausalLM

from iwpo_fast.config import LoraConfig
from iwpo_fast.models import HeadSpec, load_policy

RUN_FLAT = set(FAMILIES) - {"gemma2", "gemma3_text", "cohere2"}


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_are_those_of_the_models_own_logits(policy_of, batch, family):
    policy = policy_of(family)
    assert policy.layout == ("flat" if family in RUN_FLAT else "padded")
    ours = policy(batch)
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
        expected = gradients(theirs, policy)
    assert ours.dtype == torch.float32
    # Twelve fp32 products deep, both sides carry a few units of rounding of numbers as large as the log-prob.
    assert ((ours - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()
    assert_same_gradients(gradients(ours, policy), expected)
