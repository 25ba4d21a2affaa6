"""Rotary frequencies by length: each sequence has those that transformers gives it alone, whatever is beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import plain_logps, save_model
from transformers import AutoModelForCausalLM

from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.context import is_trained
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models.reference_cache import pass_settings

DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 16,
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic llama": ("llama", {"max_position_embeddings": 16, "rope_parameters": DYNAMIC}),
    "dynamic qwen2": ("qwen2", {"max_position_embeddings": 16, "rope_parameters": DYNAMIC}),
    "longrope phi3": ("phi3", {"original_max_position_embeddings": 16, "rope_parameters": LONG}),
    "longrope llama": ("llama", {"original_max_position_embeddings": 16, "rope_parameters": LONG}),
}


def long_and_short_pairs(vocabulary: int) -> Pairs:
    """Sequences of 5 to 40 tokens, one of exactly 16, and two long ones of different lengths."""
    rng = np.random.default_rng(0)

    def rows(*lengths: int) -> Ragged:
        return Ragged.from_rows([rng.integers(0, vocabulary, n) for n in lengths])

    return Pairs(rows(3, 10, 4), rows(2, 30, 12), rows(9, 17, 1), weight=np.ones(3))


def alone(folder: Path, batch: FlatBatch) -> torch.Tensor:
    """Log-probs of the batch, each sequence by a model that has seen no other."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    untouched = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def fresh(module: torch.nn.Module, *_: object) -> None:
        for name, buffer in module.named_buffers():
            buffer.copy_(untouched[name])
        for part in module.modules():
            if hasattr(part, "max_seq_len_cached"):
                part.max_seq_len_cached = part.original_max_seq_len

    model.register_forward_pre_hook(fresh)
    return plain_logps(model, batch)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat", "padded"])
@pytest.mark.parametrize("model", MODELS)
def test_each_sequence_has_the_log_probs_that_it_has_alone(policy_of, tokenizer, tmp_path, model, layout) -> None:
    family, changes = MODELS[model]
    policy = policy_of(family, max_length=64, changes=changes, batch_layout=layout)
    pairs = long_and_short_pairs(len(tokenizer))
    with torch.no_grad():
        for rows in ([0, 1, 2], [1], [0], [2, 1], [0, 2]):
            batch = flat_batch(pairs, np.array(rows))
            torch.testing.assert_close(policy(batch).double(), alone(tmp_path / family, batch), atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat", "padded"])
def test_context_in_a_completion_and_an_absent_one_move_no_token(policy_of, tokenizer, layout) -> None:
    family, changes = MODELS["dynamic llama"]
    policy = policy_of(family, max_length=64, changes=changes, batch_layout=layout)
    whole = long_and_short_pairs(len(tokenizer))
    chosen, present = whole.chosen.values.copy(), np.array([[False, True], [True, True], [True, False]])
    chosen[5:9] = ~chosen[5:9]  # inside of the second completion, with trained tokens on both sides
    pairs = replace(whole, chosen=Ragged(chosen, whole.chosen.offsets))
    tokens = Ragged.concatenate([pairs.chosen, pairs.rejected])
    there = np.repeat(present.T.ravel(), tokens.lengths)
    with torch.no_grad():
        full = policy(flat_batch(whole, np.arange(3)))
        for some, kept in ((pairs, np.ones_like(there)), (pairs.only(present), there)):
            found = policy(flat_batch(some, np.arange(3)))
            torch.testing.assert_close(found, full[is_trained(tokens.values) & kept], atol=2e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_frequencies_of_the_longest_sequence_would_have_been_others(tokenizer, tmp_path) -> None:
    # So that the test above sees what it is for: a padded batch of transformers differs from its sequences alone.
    for model, (family, changes) in MODELS.items():
        folder = save_model(tmp_path / model, family, tokenizer, **changes)
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        ids = torch.randint(3, 200, (2, 40), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[1, 8:] = 0
        with torch.no_grad():
            short = plain(ids[1:, :8]).logits
            assert (plain(ids, attention_mask=mask).logits[1:, :8] - short).abs().max() > 1e-2, model


@pytest.mark.slow
def test_prompts_are_not_shared_where_a_length_could_decide(policy_of) -> None:
    family, changes = MODELS["longrope phi3"]
    assert policy_of(family, max_length=16, changes=changes).layout == "shared"
    policy = policy_of(family, max_length=17, changes=changes)
    assert policy.layout == "flat" and "above 16 tokens" in policy.layout_reason
    with pytest.raises(ValueError, match=r"^model\.share_prompts is true but above 16 tokens .*max_length to 16 or"):
        policy_of(family, max_length=17, changes=changes, share_prompts=True)


def test_cached_log_probs_of_before_are_not_taken(policy_of, tokenizer) -> None:
    pairs = long_and_short_pairs(len(tokenizer))
    assert pass_settings(policy_of("llama"), pairs).get("rope") is None
    dynamic = policy_of("llama", max_length=64, changes=MODELS["dynamic llama"][1])
    assert pass_settings(dynamic, pairs)["rope"] == "by sequence, behind context too"


def test_generation_sees_the_frequencies_of_transformers(policy_of, tmp_path) -> None:
    family, changes = MODELS["dynamic llama"]
    policy = policy_of(family, max_length=64, changes=changes)
    prompt = torch.randint(3, 200, (2, 20), generator=torch.Generator().manual_seed(1))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / family).eval()
    expected = theirs.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)
    found = policy.generate(input_ids=prompt, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=2)
    assert torch.equal(found, expected)
