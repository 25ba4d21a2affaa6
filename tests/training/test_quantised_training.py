"""Training of an adapter on a 4-bit base, from the command's configuration to the saved adapter."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from killed_runs import kill_during_training, run_killed
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from test_resume import losses, model_bytes
from transformers import LlamaConfig, LlamaForCausalLM

from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.planning.memory import expected_memory
from iwpo_fast.training import train
from iwpo_fast.world import World

pytest.importorskip("bitsandbytes")


@pytest.fixture
def model(tmp_path, pairs_file) -> ModelConfig:
    """A small saved Llama, to be trained in 4 bits."""
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    tokenizer = train_tokenizer([str(value) for line in lines for value in line.values()], 320)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path / "base"
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelConfig(path=str(folder), lora=LoraConfig(rank=4, dropout=0.1), quantize="nf4")


@pytest.mark.slow
def test_a_killed_run_learns_and_resumes_bitwise_and_its_adapter_loads(config, tmp_path, model) -> None:
    whole = config(model=model, output_dir=str(tmp_path / "whole"))
    whole.optim.lr = 5e-3
    killed = dataclasses.replace(whole, output_dir=str(tmp_path / "killed"))
    train(whole)
    run_killed(killed, kill_during_training, tmp_path)
    train(killed)
    assert losses(killed) == losses(whole)
    assert model_bytes(killed) == model_bytes(whole) != {}
    first, last = losses(whole)[0][1], losses(whole)[-1][1]
    assert first == pytest.approx(0.6931, abs=1e-3) and last < 0.9 * first

    folder = Path(whole.output_dir) / "model"
    saved = load_file(folder / "adapter_model.safetensors")
    assert saved and all("lora_" in name and value.dtype == torch.float32 for name, value in saved.items())
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder).state_dict()
    for name, value in saved.items():
        assert torch.equal(loaded[name.replace(".weight", ".default.weight")], value)


@pytest.mark.slow
def test_the_plan_counts_half_a_byte_for_a_quantised_weight(config, model) -> None:
    def of(quantize) -> dict[str, int]:
        settings = dataclasses.replace(model, quantize=quantize)
        tokenizer = load_tokenizer(settings, ())
        policy = load_policy(settings, tokenizer, World(0, 1, torch.device("cpu")), seed=0)
        return expected_memory(config(model=settings), policy, 100)

    plain, small = of("none"), of("nf4")
    quantised = 2 * (4 * 64 * 64 + 3 * 64 * 128)
    saved = (4 - 0.5 - 1 / 64) * quantised
    # Beside the scales of blocks there are scales of these, and tables of 16 and of 256 numbers for each of 14 weights.
    assert saved - 14 * 2048 < plain["weights"] - small["weights"] < saved
    assert {name: part for name, part in plain.items() if name != "weights"} == {
        name: part for name, part in small.items() if name != "weights"
    }


def test_bitsandbytes_is_asked_for_before_anything_is_read(config, model, monkeypatch) -> None:
    monkeypatch.setattr("iwpo_fast.extras.find_spec", lambda name: None)
    settings = config(model=model, data=DataConfig(path="no such file"))
    with pytest.raises(ValueError, match=r"model.quantize is nf4 but bitsandbytes is not installed: pip install"):
        train(settings)
