"""The self-test sees models that look beyond a sequence, before the reference pass, and names the user's row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_pairs import write_pairs
from transformers import AutoConfig, AutoModelForCausalLM

from iwpo_fast.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.training import prepared, self_test, train

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 3,
}
SPARSE = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 1,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "partial_rotary_factor": 1.0,
}
BY_LENGTH = {
    "llama": {"max_position_embeddings": 32, "rope_parameters": DYNAMIC},
    "qwen2": {"max_position_embeddings": 32, "rope_parameters": DYNAMIC},
    "phi3": {"original_max_position_embeddings": 32, "rope_parameters": LONG},
}


@pytest.fixture
def uneven(config, tmp_path) -> Callable[..., TrainConfig]:
    """Makes a configuration that trains a model of a family on 12 short pairs and a long one, in one step."""
    path = write_pairs(tmp_path / "uneven.jsonl", rows=12)
    long = {"prompt": "say: " + "red green " * 8 + "\n", "chosen": "blue " * 12, "rejected": "warm " * 9}
    path.write_text(path.read_text() + json.dumps(long) + "\n")

    def make(family: str, max_pairs: int | None = None, **changes: Any) -> TrainConfig:
        tokenizer = train_tokenizer(["say: red green blue\nwarm cold"], 280)
        settings = SHAPE | {"vocab_size": len(tokenizer) + 8} | changes
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
        model.save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return config(
            data=DataConfig(path=str(path), eval_fraction=0.0, cache_dir=str(tmp_path / "cache")),
            model=ModelConfig(path=str(tmp_path / family)),
            optim=OptimConfig(pairs_per_step=13, max_steps=1, max_pairs_per_batch=max_pairs),
            output_dir=str(tmp_path / f"run-{family}-{max_pairs}"),
        )

    return make


@pytest.mark.slow
@pytest.mark.parametrize("family", BY_LENGTH)
def test_the_first_loss_is_ln_2_however_the_step_is_cut(uneven, family) -> None:
    for max_pairs in (1, 3, None):
        settings = uneven(family, max_pairs, **BY_LENGTH[family])
        train(settings)
        line = json.loads((Path(settings.output_dir) / "metrics.jsonl").read_text().splitlines()[0])
        assert line["loss"] == pytest.approx(0.6931472, abs=1e-6)


def test_without_the_rule_by_sequence_the_self_test_would_stop_the_run(uneven, monkeypatch) -> None:
    monkeypatch.setattr("iwpo_fast.models.rope._limits", lambda module: {})
    with pytest.raises(ValueError, match=r"changes by .* nats with what else is in its micro-batch, because LlamaForC"):
        train(uneven("llama", **BY_LENGTH["llama"]))


@pytest.mark.parametrize("family", ["deepseek_v32", "glm_moe_dsa"])
def test_an_indexer_that_sees_padding_is_refused_before_the_reference_pass(uneven, family, monkeypatch) -> None:
    monkeypatch.setattr(prepared, "with_reference", lambda *_, **__: pytest.fail("the reference pass has begun"))
    with pytest.raises(
        ValueError, match=r"(of row \d+ of uneven\.jsonl changes|an indexer choose 8 tokens).* lower data"
    ):
        train(uneven(family, **SPARSE, index_topk=8))


@pytest.mark.slow
def test_an_indexer_that_chooses_all_tokens_trains(uneven) -> None:
    assert train(uneven("deepseek_v32", **SPARSE, index_topk=512)) is not None


def test_a_type_whose_rounding_shows_says_what_is_normal() -> None:
    assert self_test.rounding(torch.float32) == ""
    assert self_test.rounding(torch.bfloat16) == "; in bfloat16 up to 0.5 nats a token are rounding"


def test_the_line_says_how_much_was_compared(config, capsys) -> None:
    train(config(optim=OptimConfig(pairs_per_step=8, max_steps=1)))
    said = re.search(r"agree to \S+ nats on (\d+) pairs in 4 micro-batches\n", capsys.readouterr().out)
    assert said is not None and 8 <= int(said[1]) <= 10  # a step of 8, the longest and the shortest
