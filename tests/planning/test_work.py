"""Tokens and floating-point operations against cases that are counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig, OptimConfig, PlanConfig, TrainConfig
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses
from iwpo_fast.planning.counts import PairsToRun, evaluations, pairs_of, training_work
from iwpo_fast.planning.shape import shape_of
from iwpo_fast.planning.work import Model, Work, work_of_batch

# Two prompts of 3 and 5 tokens; responses of 2 and 4 tokens to the first, of 1 and 6 to the second.
PROMPTS = Ragged.from_rows([[1] * 3, [2] * 5])
RESPONSES = Responses(
    prompts=PROMPTS,
    completions=Ragged.from_rows([[1] * 2, [2] * 4, [3], [4] * 6]),
    prompt_of=np.array([0, 0, 1, 1]),
    chosen=np.array([0, 2]),
    rejected=np.array([1, 3]),
    candidates=np.array([], dtype=np.int64),
)
WHOLE = 5, 7, 6, 11
LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 11,
}
LAYER = 8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 16  # query, output; key, value; MLP
WORK = Work(tokens=100, head_tokens=40, attended=500)


def config(**model: object) -> TrainConfig:
    settings = ModelConfig(path="not here", **model)  # type: ignore[arg-type]
    return TrainConfig(DataConfig("pairs.jsonl"), settings, plan=PlanConfig(model=LLAMA))


def model_of(settings: TrainConfig) -> Model:
    return Model.of(shape_of(settings, None, settings.model.lora).policy)


def test_separate_sequences_run_every_prompt_again() -> None:
    work = work_of_batch("flat", RESPONSES, np.arange(4))
    attended = sum(n * (n + 1) // 2 for n in WHOLE)
    assert work == Work(sum(WHOLE), 13, attended, 1, (sum(WHOLE), 13))


def test_an_absent_completion_repeats_no_prompt_and_is_not_run() -> None:
    both = Pairs(PROMPTS, Ragged.from_rows([[1] * 2, [3]]), Ragged.from_rows([[2] * 4, [4] * 6]), weight=np.ones(2))
    for present, whole in (([[True, False], [True, True]], [5, 6 + 11]), ([[False, True], [True, False]], [7, 6])):
        pairs = both.only(np.array(present))
        run = pairs_of(Responses.of(pairs))
        assert run.tokens("flat").tolist() == pairs.tokens.tolist() == whole
        assert run.tokens("shared").tolist() == pairs.tokens_laid_out.tolist()
        work = run.work("flat", [[np.arange(2)]])
        assert (work.tokens, work.largest[0]) == (sum(whole), sum(whole))


def test_shared_prompts_run_once_and_their_completions_attend_to_them() -> None:
    work = work_of_batch("shared", RESPONSES, np.arange(4))
    of_prompts, of_completions = 3 * 4 // 2 + 5 * 6 // 2, 2 * 3 // 2 + 4 * 5 // 2 + 1 + 6 * 7 // 2
    to_prompts = 3 * (2 + 4) + 5 * (1 + 6)
    assert work == Work(3 + 5 + 13, 13, of_prompts + of_completions + to_prompts, 1, (21, 13))


def test_padding_is_run_too() -> None:
    assert work_of_batch("padded", RESPONSES, np.arange(4)) == Work(4 * 11, 13, 4 * 11**2, 1, (44, 13))


def test_pairs_of_one_prompt_share_it_only_inside_a_micro_batch() -> None:
    pairs = PairsToRun(RESPONSES, np.array([0, 0]), np.array([1, 1]))
    policy = shape_of(config(), None, None).policy
    policy.layout = "shared"
    apart = training_work(policy, pairs, OptimConfig(pairs_per_step=2, max_pairs_per_batch=1), 0, 1)
    together = training_work(policy, pairs, OptimConfig(pairs_per_step=2), 0, 1)
    assert (apart.tokens, together.tokens) == (2 * (3 + 6), 3 + 2 * 6)
    assert (apart.batches, together.batches) == (2, 1)


def test_a_forward_pass_is_two_operations_for_each_weight_and_token_and_four_for_each_attended_key() -> None:
    model = model_of(config())
    assert (model.active, model.layers, model.width, model.head) == (3 * LAYER, 3, 8, 88)
    assert model.forward(WORK) == 2 * 3 * LAYER * 100 + 4 * 3 * 8 * 500 + 2 * 88 * 40


@pytest.mark.parametrize(
    ("options", "saves", "layers", "attention", "head"),
    [
        ({}, True, 6, 3, 6),
        ({}, False, 6, 3, 8),
        ({"gradient_checkpointing": "selective"}, True, 6, 3, 6),
        ({"gradient_checkpointing": "full"}, True, 8, 4, 6),
    ],
)
def test_a_training_pass_costs_three_forward_passes_and_one_more_where_layers_are_recomputed(
    options: dict[str, str], saves: bool, layers: int, attention: int, head: int
) -> None:
    settings = config(**options)
    flops = model_of(settings).training(WORK, settings, saves=saves)
    assert flops == layers * 3 * LAYER * 100 + attention * 4 * 3 * 8 * 500 + head * 88 * 40


def test_a_frozen_base_needs_no_gradients_of_weights_and_its_head_two_products() -> None:
    settings = config(lora=LoraConfig(rank=2))
    adapters = 3 * 2 * (2 * (8 + 8) + 2 * (8 + 4) + 3 * (8 + 16))  # inputs and outputs of the seven matrices
    model = model_of(settings)
    assert (model.trained, model.active) == (adapters, 3 * LAYER + adapters)
    expected = (4 * model.active + 2 * adapters) * 100 + 3 * 4 * 3 * 8 * 500 + 4 * 88 * 40
    assert model.training(WORK, settings, saves=True) == expected


def test_a_token_meets_the_weights_of_its_own_experts_alone() -> None:
    mixture = {"num_local_experts": 4, "num_experts_per_tok": 2}
    shape = LLAMA | {"model_type": "mixtral"} | mixture
    settings = replace(config(), plan=PlanConfig(model=shape))
    attention, router, expert = 8 * 8 * 2 + 8 * 4 * 2, 8 * 4, 3 * 8 * 16
    assert model_of(settings).active == 3 * (attention + router + 2 * expert)


def test_operations_are_those_that_pytorch_counts_for_a_layer_of_products() -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, *_ = LLAMA.values()
    shape = {name: value for name, value in LLAMA.items() if name != "model_type"}
    model: nn.Module = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **shape), attn_implementation="eager"
    )
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 6, dtype=torch.int64))
    # Eager attention multiplies masked keys too: 36 pairs of query and key instead of 21.
    found = counter.get_flop_counts()["Global"]
    rotary = sum(found.values()) - model_of(config()).forward(Work(6, 6, 36))
    assert 0 <= rotary < 0.01 * sum(found.values())


def test_evaluations_come_first_where_they_are_due_and_last() -> None:
    settings = config()
    assert evaluations(settings, 10) == 2
    for every, expected in ((4, 4), (5, 3), (20, 2), (1, 11)):
        assert evaluations(replace(settings, log=replace(settings.log, eval_every=every)), 10) == expected
