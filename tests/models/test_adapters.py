"""Adapters and training are for the language model alone, whatever else a model has."""

from __future__ import annotations

import pytest
import torch
from families import SHAPE
from safetensors import safe_open
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
)

from iwpo_fast.config import LoraConfig, ModelConfig
from iwpo_fast.models import load_policy
from iwpo_fast.models.adapters import freeze_outside, with_lora
from iwpo_fast.world import World

EYES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def gemma3(shape) -> PreTrainedModel:
    text = shape | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    eyes = EYES | {"num_hidden_layers": 1}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=eyes, mm_tokens_per_image=1))


def llava(shape) -> PreTrainedModel:
    eyes = CLIPVisionConfig(**EYES, num_hidden_layers=1, projection_dim=32)
    return LlavaForConditionalGeneration(LlavaConfig(text_config=Qwen2Config(**shape), vision_config=eyes))


def qwen_vl(shape) -> PreTrainedModel:
    eyes = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    shape = {name: value for name, value in shape.items() if name != "head_dim"}
    text = shape | {"rope_parameters": rope}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=eyes))


MODELS = {"gemma3": gemma3, "llava": llava, "qwen2.5-vl": qwen_vl}


@pytest.fixture(params=MODELS)
def seeing(request, tokenizer) -> PreTrainedModel:
    torch.manual_seed(0)
    return MODELS[request.param](SHAPE | {"vocab_size": len(tokenizer)})


def adapted(model, **options) -> list[str]:
    """Names of the adapter's weights."""
    model = with_lora(model, LoraConfig(rank=2, **options), seed=0)
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_all_linear_adapts_the_language_model_alone(seeing) -> None:
    names = adapted(seeing)
    assert names and all(".language_model." in name for name in names)
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {part for name in names for part in name.split(".") if part in layers} == layers
    assert len(names) == 2 * 2 * len(layers)


def test_named_layers_are_adapted_wherever_they_are(seeing) -> None:
    names = adapted(seeing, target_modules=r".*\.(q_proj|qkv)")
    assert {".language_model." in name for name in names} == {True, False}


def test_the_towers_are_frozen_without_adapters(seeing) -> None:
    freeze_outside(seeing)
    frozen = {name for name, p in seeing.named_parameters() if not p.requires_grad}
    outside = {name for name, _ in seeing.named_parameters() if "language_model" not in name}
    assert frozen == outside - {"lm_head.weight"} != set()


@pytest.mark.slow
def test_what_is_trained_has_gradients_and_what_is_saved_is_the_adapter(tmp_path, tokenizer, batch) -> None:
    gemma3(SHAPE | {"vocab_size": len(tokenizer)}).save_pretrained(tmp_path / "m")
    world = World(0, 1, torch.device("cpu"))
    for lora in (None, LoraConfig(rank=2)):
        policy = load_policy(ModelConfig(path=str(tmp_path / "m"), lora=lora), tokenizer, world, seed=0, max_length=20)
        policy(batch).sum().backward()
        assert all(p.grad is not None for p in policy.trainable_parameters().values())
    policy.save(tmp_path / "adapter", tokenizer)
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert len(list(file.keys())) == len(policy.trainable_parameters())


def test_a_model_without_towers_is_adapted_and_trained_as_a_whole(policy_of) -> None:
    assert all(p.requires_grad for p in policy_of("llama").model.parameters())
    assert len(policy_of("llama", lora=LoraConfig(rank=2)).trainable_parameters()) == 2 * 7 * 2
