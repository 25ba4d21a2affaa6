"""What is drawn by transformers, and the log-probs that are kept of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from iwpo_fast.config import CandidateConfig, LoraConfig, ModelConfig, TinyConfig
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.sampling.blocks import Draw
from iwpo_fast.sampling.by_transformers import draw_block
from iwpo_fast.world import World

CPU = World(0, 1, torch.device("cpu"))
TINY = TinyConfig(vocab_size=300, hidden_size=32, layers=2, heads=2)
PROMPTS = Ragged.from_rows([[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [8]])
TOKENIZER = train_tokenizer(["one two three four"], 300)
ASKED = CandidateConfig(per_prompt=1, max_new_tokens=12)


def make_policy(**options) -> Policy:
    """Random weights, more decided than fresh ones, so that tokens differ in probability."""
    policy = load_policy(ModelConfig(tiny=TINY, **options), TOKENIZER, CPU, seed=3)
    policy.causal_lm.get_output_embeddings().weight.data.mul_(4)
    return policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy()


def drawn(policy: Policy, prompts: Ragged = PROMPTS, *, ends=(0,), seed: int = 0, **settings) -> list[Draw]:
    asked = replace(ASKED, **settings)
    return draw_block(policy, prompts, asked, ends=ends, pad=TOKENIZER.pad_token_id, seed=seed)


def logits_of(policy: Policy, prompt: np.ndarray, tokens: list[int]) -> torch.Tensor:
    """[n, V] of the model as transformers runs it, before each of the tokens."""
    ids = torch.tensor([[*prompt.tolist(), *tokens]])
    policy.eval()
    with torch.no_grad(), policy.plain_attention() as model:
        return model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Log-probs [n, V] of the fewest most probable tokens with this probability, -inf elsewhere."""
    logps = logits.log_softmax(-1)
    ordered, order = logps.sort(descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = torch.full_like(logps, -torch.inf).scatter(1, order, ordered.where(before < top_p, -torch.inf))
    return kept.log_softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.5, 0.8)])
def test_log_probs_are_those_of_the_model_and_of_the_sampler(policy, temperature, top_p) -> None:
    ends = (0, 17, 40, 41, 42, 43)
    found = [
        draw for seed in range(8) for draw in drawn(policy, ends=ends, seed=seed, temperature=temperature, top_p=top_p)
    ]
    assert {draw.ended for draw in found} == {True, False} or temperature < 1
    for k, draw in enumerate(found):
        assert not set(draw.tokens) & set(ends)
        if draw.ended:
            continue
        logits = logits_of(policy, PROMPTS[k % len(PROMPTS)], draw.tokens)
        assert len(draw.tokens) == 12
        at = torch.tensor(draw.tokens)[:, None]
        expected = [logits.log_softmax(-1), nucleus(logits / temperature, top_p)]
        sums = [logps.gather(1, at).sum().item() for logps in expected]
        assert (draw.log_model, draw.log_mu) == pytest.approx(sums, rel=1e-4, abs=1e-4)
        assert (draw.log_mu == draw.log_model) == (temperature == top_p == 1)


@pytest.mark.slow
def test_the_end_is_part_of_the_log_probs_and_not_of_the_tokens(policy) -> None:
    first = drawn(policy)[0].tokens
    ended = drawn(policy, ends=(0, first[3]))[0]
    until = first.index(first[3])
    assert (ended.tokens, ended.ended, ended.end) == (first[:until], True, first[3])
    logps = logits_of(policy, PROMPTS[0], first[: until + 1]).log_softmax(-1)
    expected = logps.gather(1, torch.tensor(first[: until + 1])[:, None]).sum().item()
    assert ended.log_model == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_seed_gives_the_same_draws_again_and_the_global_state_and_the_mode_stay(policy) -> None:
    policy.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert drawn(policy) == drawn(policy) != drawn(policy, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert policy.training
    alike = drawn(policy)
    assert alike[1].tokens != alike[3].tokens  # the same prompt twice


@pytest.mark.slow
def test_what_the_model_wants_of_generation_by_itself_is_ignored_and_stays(policy) -> None:
    plain = drawn(policy)
    own = policy.causal_lm.generation_config
    own.update(repetition_penalty=5.0, top_k=1, temperature=0.01, max_length=4)
    assert drawn(policy) == plain
    assert policy.causal_lm.generation_config is own and own.repetition_penalty == 5.0
    own.update(repetition_penalty=None, top_k=None, temperature=None, max_length=None)


@pytest.mark.slow
def test_draws_follow_the_distribution_that_log_mu_tells(policy) -> None:
    prompts = Ragged.from_rows([[5, 6, 7]] * 4000)
    found = drawn(policy, prompts, ends=(), max_new_tokens=1, top_p=0.6)
    counts, log_mu = Counter(draw.tokens[0] for draw in found), {draw.tokens[0]: draw.log_mu for draw in found}
    assert 3 < len(counts) < 200
    for token, count in counts.items():
        probability = np.exp(log_mu[token])
        five_standard_errors = 5 * np.sqrt(probability * (1 - probability) / 4000)
        assert count / 4000 == pytest.approx(probability, abs=five_standard_errors + 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", ["none", "selective", "full"])
def test_an_adapter_is_off_and_recomputed_layers_change_nothing(policy, recomputed) -> None:
    adapted = make_policy(lora=LoraConfig(rank=4), gradient_checkpointing=recomputed)
    for parameter in adapted.trainable_parameters().values():
        parameter.data.normal_()
    assert [draw.tokens for draw in drawn(adapted)] == [draw.tokens for draw in drawn(policy)]


def test_a_model_whose_logits_are_not_numbers_is_one_sentence() -> None:
    broken = make_policy()
    broken.causal_lm.get_output_embeddings().weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="The model gives NaN or infinite logits, so nothing can be drawn from it"):
        drawn(broken)
