from __future__ import annotations

import copy
from collections import Counter, defaultdict

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from iwpo_fast.config import TinyConfig
from iwpo_fast.evaluation.sampling import sample_completions
from iwpo_fast.models.tiny import tiny_model, train_tokenizer

PROMPTS = ["one two:", "a much longer prompt than the others, with many words:", "x", "four five six:"]


@pytest.fixture(scope="module")
def tiny() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    tokenizer = train_tokenizer(PROMPTS * 3, vocab_size=300)
    shape = TinyConfig(vocab_size=300, hidden_size=32, layers=1, heads=2)
    return tiny_model(shape, tokenizer, seed=0), tokenizer


def sample(tiny, prompts=PROMPTS, **settings) -> list[str]:
    model, tokenizer = tiny
    return sample_completions(model, tokenizer, prompts, **({"max_new_tokens": 8, "seed": 0} | settings))


def test_the_same_seed_gives_the_same_completions_and_another_seed_others(tiny) -> None:
    assert sample(tiny) == sample(tiny) != sample(tiny, seed=1)


def test_the_global_random_state_stays_as_it_was(tiny) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    sample(tiny)
    assert torch.equal(torch.get_rng_state(), before)


def test_greedy_completions_do_not_depend_on_seed_padding_or_batch(tiny) -> None:
    together = sample(tiny, temperature=0)
    alone = [sample(tiny, [prompt], temperature=0, seed=9)[0] for prompt in PROMPTS]
    assert together == alone == sample(tiny, temperature=0, batch_size=2)


def test_each_completion_stands_at_the_place_of_its_prompt(tiny) -> None:
    there = sample(tiny, temperature=0, batch_size=2)
    assert sample(tiny, PROMPTS[::-1], temperature=0, batch_size=2) == there[::-1]


def test_samples_follow_the_models_distribution(tiny) -> None:
    model, tokenizer = tiny
    temperature = 0.1  # random weights are nearly uniform at 1
    ids = tokenizer("x", return_tensors="pt").input_ids
    probabilities = (model(ids).logits[0, -1] / temperature).softmax(-1)
    expected: dict[str, float] = defaultdict(float)
    for token, probability in enumerate(probabilities.tolist()):
        expected[tokenizer.decode([token], skip_special_tokens=True)] += probability
    drawn = Counter(sample(tiny, ["x"] * 4000, max_new_tokens=1, temperature=temperature, batch_size=4000))
    assert 0.1 < max(expected.values()) < 0.9
    for text, probability in expected.items():
        five_standard_errors = 5 * (probability * (1 - probability) / 4000) ** 0.5
        assert drawn[text] / 4000 == pytest.approx(probability, abs=five_standard_errors + 1e-3)


def test_a_completion_ends_at_the_end_token_and_shows_no_special_token(tiny) -> None:
    model, tokenizer = tiny
    assert not any("<|" in text for text in sample(tiny, PROMPTS * 20, max_new_tokens=60))
    prompt = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    first = int(model.generate(prompt, do_sample=False, max_new_tokens=1)[0, -1])
    ends_at_once = copy.deepcopy(tokenizer)
    ends_at_once.eos_token = tokenizer.convert_ids_to_tokens(first)
    [stopped], [full] = (sample((model, t), PROMPTS[:1], temperature=0) for t in (ends_at_once, tokenizer))
    assert stopped == tokenizer.decode([first]) and len(full) > len(stopped)


def test_no_prompts_give_no_completions(tiny) -> None:
    assert sample(tiny, []) == []
