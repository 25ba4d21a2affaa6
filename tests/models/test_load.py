"""Loading: what is float32, what is off, and one-sentence errors for what cannot be used."""

from __future__ import annotations

import json

import pytest
import torch
from families import save_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, T5Config, ViTConfig

from iwpo_fast.config import LoraConfig, ModelConfig, TinyConfig
from iwpo_fast.models import Policy, load_policy, load_tokenizer
from iwpo_fast.world import World

CPU = torch.device("cpu")


def load(path, tokenizer, **options) -> Policy:
    return load_policy(ModelConfig(path=str(path), **options), tokenizer, World(0, 1, CPU), seed=0, max_length=64)


@pytest.mark.slow
def test_master_weights_are_float32_though_the_checkpoint_is_bf16(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    for lora in (None, LoraConfig(rank=2)):
        policy = load(folder, tokenizer, lora=lora)
        assert {p.dtype for p in policy.parameters()} == {torch.float32}


@pytest.mark.slow
def test_dropout_is_off_except_the_adapters_own(policy_of, batch) -> None:
    policy = policy_of("gpt2")
    assert policy.training
    assert torch.equal(policy(batch), policy(batch))
    policy = policy_of("gpt2", lora=LoraConfig(rank=2, dropout=0.25, target_modules=["c_attn"]))
    rates = {m.p for name, m in policy.named_modules() if isinstance(m, nn.Dropout) and "lora_dropout" in name}
    assert rates == {0.25}


@pytest.mark.slow
def test_an_adapter_is_the_same_for_the_same_seed(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)

    def adapter(seed) -> dict[str, nn.Parameter]:
        config = ModelConfig(path=str(folder), lora=LoraConfig(rank=2))
        return load_policy(config, tokenizer, World(0, 1, CPU), seed=seed).trainable_parameters()

    first, again, other = adapter(0), adapter(0), adapter(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_missing_end_token_is_asked_for_and_a_missing_pad_token_is_not(tmp_path, tokenizer) -> None:
    folder = tmp_path / "t"
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = load_tokenizer(ModelConfig(path=str(folder)), [])
    assert loaded.pad_token_id == loaded.eos_token_id == tokenizer.eos_token_id
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="has no end-of-sequence token: set eos_token"):
        load_tokenizer(ModelConfig(path=str(folder)), [])


@pytest.mark.parametrize("path", ["no/such/folder", "some-org/some-model", "./nothing", "/no/such/folder"])
def test_a_missing_folder_and_an_unreachable_hub_are_one_sentence(tokenizer, path) -> None:
    for attempt in (lambda: load_tokenizer(ModelConfig(path=path), []), lambda: load(path, tokenizer)):
        sentence = "is neither a folder with a" if path == "some-org/some-model" else "does not exist: check the path"
        with pytest.raises(ValueError, match=f"model.path {path} {sentence}") as error:
            attempt()
        assert "\n" not in str(error.value)


def test_an_empty_folder_has_neither_model_nor_tokenizer(tmp_path, tokenizer) -> None:
    with pytest.raises(ValueError, match="neither a folder with a tokenizer"):
        load_tokenizer(ModelConfig(path=str(tmp_path)), [])
    with pytest.raises(ValueError, match="neither a folder with a model"):
        load(tmp_path, tokenizer)


def test_a_folder_whose_weights_are_missing_is_reported(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="neither a folder with a model"):
        load(folder, tokenizer)


def test_weights_that_lack_a_layer_are_not_filled_with_random_numbers(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = 3
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"lacks 9 weights of LlamaForCausalLM, model.layers.2"):
        load(folder, tokenizer)


def test_damaged_weights_are_reported(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="are damaged or do not fit"):
        load(folder, tokenizer)


def test_settings_of_the_wrong_kind_are_reported(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_size": "x"}))
    with pytest.raises(ValueError, match=r"The config.json of .* has a value of the wrong kind: save or download"):
        load(folder, tokenizer)


def test_weights_of_another_shape_are_reported(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    config = AutoConfig.from_pretrained(folder)
    config.intermediate_size = 40
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match="are damaged or do not fit"):
        load(folder, tokenizer)


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer, vocab_size=len(tokenizer) - 1)
    with pytest.raises(ValueError, match=f"has {len(tokenizer)} entries but the model embeds {len(tokenizer) - 1}"):
        load(folder, tokenizer)


def test_a_vocabulary_smaller_than_the_embedding_is_fine(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer, vocab_size=len(tokenizer) + 30)
    assert load(folder, tokenizer).head.linear.out_features == len(tokenizer) + 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "message"),
    [(T5Config(), "is an encoder-decoder model"), (ViTConfig(), "holds a ViTConfig, which is no causal language")],
)
def test_models_that_are_no_causal_language_models_are_refused(tmp_path, tokenizer, config, message) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, tokenizer)


def test_quantised_weights_are_refused(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="is quantised"):
        load(folder, tokenizer)


@pytest.mark.slow
def test_an_adapter_folder_is_refused_as_a_model(tmp_path, tokenizer) -> None:
    policy = load(save_model(tmp_path / "m", "llama", tokenizer), tokenizer, lora=LoraConfig(rank=2))
    policy.save(tmp_path / "adapter", tokenizer)
    with pytest.raises(ValueError, match=r"is an adapter: give its base as model\.path"):
        load(tmp_path / "adapter", tokenizer)


def test_target_modules_that_the_model_lacks_are_reported_in_one_sentence(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    with pytest.raises(ValueError, match=r"model.lora does not fit LlamaForCausalLM") as error:
        load(folder, tokenizer, lora=LoraConfig(rank=2, target_modules=["no_such_layer"]))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_sequences_longer_than_the_learned_positions_are_refused(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "gpt2", tokenizer)
    config = ModelConfig(path=str(folder))
    with pytest.raises(ValueError, match=r"data.max_length is 129 but .* has learned only 128 positions"):
        load_policy(config, tokenizer, World(0, 1, CPU), seed=0, max_length=129)
    assert load_policy(config, tokenizer, World(0, 1, CPU), seed=0, max_length=128).layout == "shared"


@pytest.mark.slow
def test_a_trained_tiny_model_loads_from_its_folder(tmp_path, tokenizer, batch) -> None:
    tiny = load_policy(ModelConfig(tiny=TinyConfig(hidden_size=32)), tokenizer, World(0, 1, CPU), seed=0)
    tiny.save(tmp_path / "m", tokenizer)
    again = load(tmp_path / "m", load_tokenizer(ModelConfig(path=str(tmp_path / "m")), []))
    assert torch.equal(tiny(batch), again(batch))
    assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template == tokenizer.chat_template
