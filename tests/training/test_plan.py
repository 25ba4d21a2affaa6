"""What the plan of a run says before its first step."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from iwpo_fast.optimisation import optimizer_steps
from iwpo_fast.training import plan, train


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "flat batches with each prompt once (the model can), attention: sdpa_by_length"),
        ({"attention": "eager_by_length"}, "attention: eager_by_length (asked for)"),
        (
            {"batch_layout": "padded"},
            "(asked for), attention: sdpa (the model's own)",
        ),
    ],
    ids=["auto", "asked_for", "padded"],
)
def test_the_plan_says_how_attention_is_computed_and_why(config, capsys, options, words) -> None:
    base = config()
    model, optim = dataclasses.replace(base.model, **options), dataclasses.replace(base.optim, max_steps=1)
    train(dataclasses.replace(base, model=model, optim=optim))
    assert f"{words}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("max_steps", "words"),
    [(50, "; optim.max_steps 50 is more than the 3 of optim.epochs have"), (12, ""), (7, ""), (None, "")],
)
def test_the_plan_says_where_epochs_end_before_max_steps_does(config, max_steps, words) -> None:
    optim = dataclasses.replace(config().optim, epochs=3, max_steps=max_steps)
    pairs = range(4 * optim.pairs_per_step)
    job: Any = SimpleNamespace(config=config(optim=optim), steps=optimizer_steps(optim, len(pairs))[1])
    assert plan._fewer(job) == words


@pytest.mark.parametrize(
    ("dtype", "machine", "has", "slow"),
    [
        (torch.bfloat16, "x86_64", False, True),
        (torch.bfloat16, "x86_64", True, False),
        (torch.bfloat16, "arm64", False, False),
        (torch.float32, "x86_64", False, False),
    ],
)
def test_bfloat16_without_instructions_is_called_slow(monkeypatch, dtype, machine, has, slow) -> None:
    monkeypatch.setattr(plan.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert plan.slow_bfloat16(dtype, torch.device("cpu")) == slow
    assert not plan.slow_bfloat16(dtype, torch.device("cuda"))


@pytest.mark.parametrize(
    ("rope", "longest", "said"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, 65, True),
        ({"rope_type": "default", "rope_theta": 1e4}, 64, False),
        ({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}, 65, False),
    ],
)
def test_the_plan_says_where_a_sequence_is_longer_than_the_model_was_made_for(rope, longest, said) -> None:
    config = LlamaConfig(max_position_embeddings=64, rope_parameters=rope)
    lines = plan.beyond_positions(config, longest)
    assert [("65 tokens, more than the 64 positions" in line) for line in lines] == ([True] if said else [])


def test_the_longest_sequence_is_a_prompt_with_the_longer_completion() -> None:
    lengths = {"prompt": [3, 5], "chosen": [9, 1], "rejected": [2, 8]}
    sides = {name: SimpleNamespace(lengths=np.array(of)) for name, of in lengths.items()}
    job: Any = SimpleNamespace(pairs=SimpleNamespace(**sides))
    assert plan.tokens_of_longest(job) == 13
