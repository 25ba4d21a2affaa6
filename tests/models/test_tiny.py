"""The built-in model and its tokenizer."""

from __future__ import annotations

import pytest
import torch

from iwpo_fast.config import ModelConfig, TinyConfig
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.tiny import tiny_model, train_tokenizer
from iwpo_fast.world import World

CPU = torch.device("cpu")
TEXTS = ["The quick brown fox jumps over the lazy dog.", "How vexingly quick daft zebras jump!"] * 3


def test_equal_seeds_give_bitwise_equal_models_and_others_do_not(tokenizer) -> None:
    config = ModelConfig(tiny=TinyConfig(hidden_size=32))
    first, again, other = (load_policy(config, tokenizer, World(0, 1, CPU), seed=s) for s in (0, 0, 1))
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, dict(again.named_parameters())[name])
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_the_shape_is_the_one_asked_for(tokenizer) -> None:
    model = tiny_model(TinyConfig(hidden_size=64, layers=3, heads=2), tokenizer, seed=0)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (64, 3)
    assert model.config.num_attention_heads == 2
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.shape == (len(tokenizer), 64)


@pytest.mark.parametrize("shape", [{"hidden_size": 48}, {"hidden_size": 64, "heads": 3}])
def test_a_shape_that_cannot_be_is_reported(tokenizer, shape) -> None:
    with pytest.raises(ValueError, match=r"model.tiny.hidden_size is"):
        tiny_model(TinyConfig(**shape), tokenizer, seed=0)


@pytest.mark.parametrize("name", ["hidden_size", "layers", "heads"])
@pytest.mark.parametrize("value", [0, -32])
def test_every_part_of_the_shape_must_be_positive(tokenizer, name, value) -> None:
    with pytest.raises(ValueError, match=f"model.tiny.{name} is {value}: it must be positive."):
        tiny_model(TinyConfig(**{name: value}), tokenizer, seed=0)


def test_equal_texts_give_equal_tokenizers_that_encode_anything() -> None:
    tokenizers = [load_tokenizer(ModelConfig(tiny=TinyConfig(vocab_size=300)), iter(TEXTS)) for _ in range(2)]
    assert tokenizers[0].backend_tokenizer.to_str() == tokenizers[1].backend_tokenizer.to_str()
    assert len(tokenizers[0]) == 300
    text = "Zürich 東京 🦊\t\n x"
    assert tokenizers[0].decode(tokenizers[0](text).input_ids) == text
    assert tokenizers[0](text).input_ids == tokenizers[1](text).input_ids


def test_a_vocabulary_is_as_large_as_the_text_allows() -> None:
    scarce = train_tokenizer(["ab", "ab"], 4096)
    assert 260 < len(scarce) < 300
    assert len(train_tokenizer([], 4096)) == 260
    with pytest.raises(ValueError, match="set it to 260"):
        train_tokenizer(TEXTS, 259)


def test_nothing_is_added_to_plain_text(tokenizer) -> None:
    assert tokenizer.decode(tokenizer("quick fox").input_ids) == "quick fox"
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize("answer", ["Yes.", " leading space", "\nleading newline", "<b>", ""])
def test_the_templated_prompt_is_a_prefix_of_the_conversation(tokenizer, answer) -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Jump?"}]
    whole = [*prompt, {"role": "assistant", "content": answer}]
    ids = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=ask, return_dict=False)
        for messages, ask in ((prompt, True), (whole, False))
    ]
    assert ids[1][: len(ids[0])] == ids[0]
    assert ids[1][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[1][len(ids[0]) : -1]) == answer
