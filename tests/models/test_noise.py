"""The noise of NEFTune: how large, of which sequence, and where there is none."""

from __future__ import annotations

import math

import pytest
import torch

from iwpo_fast.models.reference import as_reference

ALPHA = 5.0


@pytest.mark.parametrize("layout", ["flat", "padded"])
def test_noise_has_the_size_of_its_own_sequence_whatever_the_layout(policy_of, batch, layout) -> None:
    policy = policy_of("llama", neftune_alpha=ALPHA, batch_layout="padded" if layout == "padded" else "auto")
    assert policy.layout == layout
    seen: list[torch.Tensor] = []
    embedding = policy.causal_lm.get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: seen.append(output - module.weight[inputs[0]]))
    policy.train()(batch)
    (noise,) = seen
    lengths = batch.cu_seqlens.diff().tolist()
    width = noise.shape[-1]
    of_sequences = (
        noise[0].detach().split(lengths) if layout == "flat" else [noise[i, :n].detach() for i, n in enumerate(lengths)]
    )
    for some, length in zip(of_sequences, lengths, strict=True):
        bound = ALPHA / math.sqrt(length * width)
        assert 0.9 * bound < some.abs().max() <= bound
        assert some.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert len(set(lengths)) > 1
    # Completions of one prompt have noise of their own on it.
    assert not torch.equal(of_sequences[0][:1], of_sequences[-1][:1])


def test_noise_is_drawn_again_from_the_seed_and_is_in_no_evaluation_and_no_reference(policy_of, batch) -> None:
    policy, plain = policy_of("llama", neftune_alpha=ALPHA), policy_of("llama", share_prompts=False)

    def noisy(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return policy.train()(batch).detach()

    assert torch.equal(noisy(1), noisy(1))
    assert not torch.equal(noisy(1), noisy(2))
    expected = plain(batch).detach()
    with as_reference(policy):
        assert torch.equal(policy(batch), expected)
    assert torch.equal(policy.eval()(batch), expected)
    assert (noisy(1) - expected).abs().max() > 0.01


def test_noise_and_shared_prompts_are_refused_together(policy_of) -> None:
    with pytest.raises(ValueError, match=r"model\.neftune_alpha is 5\.0 and model\.share_prompts is true"):
        policy_of("llama", neftune_alpha=ALPHA, share_prompts=True)
