"""A mixture of experts trains with its router's loss where its configuration asks, and logs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from iwpo_fast.config import ModelConfig, OptimConfig
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.training import train

FAMILIES = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_preferences_and_the_factor_times_the_routers(config, tmp_path, family, capsys) -> None:
    tokenizer = train_tokenizer(["say: red green blue\nwarm cold"], 280)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    asks = {"num_key_value_heads": 2, "output_router_logits": True, "router_aux_loss_coef": 5.0}
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 3, "vocab_size": len(tokenizer) + 8}
    torch.manual_seed(0)
    settings = AutoConfig.for_model(family, **shape, **asks, **ends, **FAMILIES[family])
    AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    model = ModelConfig(path=str(tmp_path / "m"))
    # In micro-batches of different lengths, and as one.
    optim = OptimConfig(pairs_per_step=8, max_steps=8, lr=1e-3, max_pairs_per_batch=3)
    run = config(model=model, optim=optim)
    train(run)
    assert "auxiliary loss is added with the factor 5, and logged as aux_loss" in capsys.readouterr().out
    lines = [json.loads(line) for line in (Path(run.output_dir) / "metrics.jsonl").read_text().splitlines()]
    first, held_out = next(m for m in lines if "loss" in m), next(m for m in lines if "eval_loss" in m)
    assert first["aux_loss"] >= 1.0
    assert first["loss"] == pytest.approx(0.693147 + 5 * first["aux_loss"], abs=1e-4)
    assert held_out["eval_loss"] == pytest.approx(0.693147 + 5 * held_out["eval_aux_loss"], abs=1e-4)
    assert lines[-1]["eval_aux_loss"] < held_out["eval_aux_loss"]


def test_other_models_log_no_router(config) -> None:
    run = config(optim=OptimConfig(pairs_per_step=8, max_steps=1))
    train(run)
    assert "aux_loss" not in (Path(run.output_dir) / "metrics.jsonl").read_text()
