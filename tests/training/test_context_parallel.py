"""Processes that compute slices of one batch train to the numbers of one that computes the whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_on_ranks
from sharding_cases import TINY, TOKENIZER_TEXTS, Results, save_family, steps_of, train_until
from test_sharding import assert_same_model, assert_same_step, logged
from test_shards_move import samples_of
from torch.autograd.graph import saved_tensors_hooks
from toy_pairs import write_pairs

from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    ReferenceSyncConfig,
    TrainConfig,
)
from iwpo_fast.context_group import ContextGroup
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import load_policy
from iwpo_fast.models.attention.rectangles import Rectangle
from iwpo_fast.models.router import RouterLoss
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.training import train
from iwpo_fast.world import World

READ_IN_SLICES = ("sigmoid", "five with statistics of the step", "drdo_reference")
"""Objectives that read log-probs, the log-probs of a step before its first loss, and statistics of each token."""

GROUP: Any = ContextGroup(0, 2, group=None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("context")


@pytest.fixture(scope="module")
def models(folder) -> dict[str, ModelConfig]:
    """Groups of query heads, both layouts, windows and softcaps, recomputed layers and adapters."""
    llama = save_family(folder / "llama", "llama", tie_word_embeddings=True)
    qwen = save_family(folder / "qwen3", "qwen3", tie_word_embeddings=False)
    gemma = save_family(folder / "gemma2", "gemma2", final_logit_softcapping=3.0, sliding_window=4)
    head = LoraConfig(rank=3, target_modules=["q_proj", "lm_head"])
    return {
        "tied": llama,
        "separate": dataclasses.replace(qwen, share_prompts=False, gradient_checkpointing="full"),
        "window and softcap": gemma,
        "adapter": dataclasses.replace(qwen, lora=head, gradient_checkpointing="selective"),
    }


@pytest.fixture(scope="module")
def alone(folder, models) -> dict[str, Results]:
    return steps_of(models, folder / "alone", 1, 1, READ_IN_SLICES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "shard_over", "context", "kept"),
    [
        (2, 1, 2, {"tied", "separate", "window and softcap", "adapter"}),
        (3, "all", 3, {"separate"}),
        (4, 2, 2, {"adapter"}),
    ],
    ids=["2 processes", "3 that also hold the model together", "2 groups of 2, in 2 copies of the model"],
)
def test_slices_give_the_gradients_metrics_and_files_of_whole_batches(
    folder, models, alone, ranks, shard_over, context, kept
) -> None:
    """The batches have sequences shorter than the group, of one token a process, and of which some leave a rest."""
    some = {name: model for name, model in models.items() if name in kept}
    saved = folder / f"on-{ranks}"
    for rank, found in enumerate(run_on_ranks(ranks, steps_of, some, saved, shard_over, context, READ_IN_SLICES)):
        for model in some:
            for what, value in alone[model].items():
                where = f"rank {rank}, {model}, {what}"
                if isinstance(value, dict):
                    assert_same_step(found[model][what], value, where)
                elif isinstance(value, str):
                    assert found[model][what] == value, where
                else:
                    np.testing.assert_allclose(found[model][what], value, rtol=2e-6, atol=1e-5, err_msg=where)
    for model in some:
        assert_same_model(saved / model, folder / "alone" / model, 0.0)


@pytest.mark.slow
def test_runs_go_on_in_other_numbers_of_slices_to_the_losses_and_the_model_of_one_process(folder, models) -> None:
    data = write_pairs(folder / "pairs.jsonl", rows=42, weight=[0.25 * (i % 7) for i in range(42)])

    def run(name: str, context: int) -> TrainConfig:
        return TrainConfig(
            data=DataConfig(path=str(data), eval_fraction=0.2, cache_dir=str(folder / f"cache-{name}")),
            model=models["tied"],
            reference_sync=ReferenceSyncConfig(alpha=0.5, steps=2),
            optim=OptimConfig(lr=1e-3, pairs_per_step=12, max_steps=4, epochs=4, tokens_per_batch=100),
            log=LogConfig(every=1, eval_every=2, samples=2, sample_tokens=4),
            checkpoint=CheckpointConfig(every=1, keep=1),
            output_dir=str(folder / name),
            context_parallel=context,
            device="cpu",
        )

    one, many = run("whole", 1), run("split", 2)
    train(one)
    run_on_ranks(1, train_until, [run("split", 1)], 1)
    run_on_ranks(2, train_until, [many], None)
    for metric in ("loss", "grad_norm", "eval_loss"):
        assert logged(many, metric) == pytest.approx(logged(one, metric), rel=2e-5)
    assert len(logged(many, "loss")) == 4
    assert samples_of(many) == samples_of(one)
    # Adam divides by the size of gradients, and so makes rounding of those near 0 larger.
    assert_same_model(Path(many.output_dir) / "model", Path(one.output_dir) / "model", 2e-5)


def kept_of_a_long_pair(model: ModelConfig, context_parallel: int) -> tuple[int, int]:
    """Tokens that this process's decoder runs, and bytes that the forward pass keeps for the backward pass."""
    world = World.start("cpu").in_contexts_of(context_parallel)
    policy = load_policy(model, train_tokenizer(TOKENIZER_TEXTS, TINY.vocab_size), world, seed=5, max_length=2000)
    rng = np.random.default_rng(1)
    prompt, chosen, rejected = (Ragged.from_rows([rng.integers(4, 250, n)]) for n in (1200, 30, 44))
    batch = policy.ready(flat_batch(Pairs(prompt, chosen, rejected, weight=np.ones(1)), np.arange(1)))
    ran: list[int] = []
    policy.head.decoder.register_forward_pre_hook(lambda _, inputs: ran.append(inputs[0].shape[1]))
    kept = {parameter.untyped_storage().data_ptr(): 0 for parameter in policy.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logps = policy(batch)
    logps.sum().backward()
    return ran[0], sum(kept.values())


@pytest.mark.slow
def test_each_process_runs_and_keeps_its_share_of_a_long_pair(models) -> None:
    """With layers recomputed, because a backend keeps keys and values of the whole group until its backward pass."""
    (tokens, whole), slices = (
        kept_of_a_long_pair(models["separate"], 1),
        run_on_ranks(2, kept_of_a_long_pair, models["separate"], 2),
    )
    assert tokens == 2 * 1200 + 30 + 44
    for ran, kept in slices:
        assert ran == tokens // 2
        assert kept <= 0.55 * whole


def refusal_where_causal_masks_begin_together(model: ModelConfig) -> str:
    """What loading says where the first query of a part sees the first key alone, as some kernels have it."""

    def mask(self: Rectangle, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.full((self.queries, self.keys), -torch.inf, dtype=dtype, device=device).triu(1)

    world = World.start("cpu").in_contexts_of(2)
    tokenizer = train_tokenizer(TOKENIZER_TEXTS, TINY.vocab_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rectangle, "mask", mask)
        with pytest.raises(ValueError, match="context_parallel") as refusal:
            load_policy(model, tokenizer, world, seed=5, max_length=100)
    return str(refusal.value)


@pytest.mark.slow
def test_an_attention_that_aligns_queries_with_the_first_keys_is_found_out_before_the_first_pass(models) -> None:
    for said in run_on_ranks(2, refusal_where_causal_masks_begin_together, models["separate"]):
        assert "cannot run flat, its log-probs would differ from those of separate sequences" in said


@pytest.mark.parametrize(("processes", "context"), [(4, 3), (2, 4), (1, 2)])
def test_processes_that_cannot_be_split_into_equal_groups_are_refused(processes, context) -> None:
    with pytest.raises(ValueError, match=f"context_parallel is {context} but the job's {processes} processes cannot"):
        World(0, processes, torch.device("cpu")).in_contexts_of(context)


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("bloom", {}, r"context_parallel is 2 but BloomForCausalLM cannot run flat, .* set context_parallel to 1"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "context_parallel is 2, and above 128 tokens the rotary embedding of LlamaForCausalLM depends on",
        ),
    ],
)
def test_models_that_no_slice_can_stand_for_are_refused_before_the_first_pass(
    tmp_path, family, changes, sentence
) -> None:
    model = save_family(tmp_path, family, **changes)
    tokenizer = train_tokenizer(TOKENIZER_TEXTS, TINY.vocab_size)
    world = dataclasses.replace(World(0, 2, torch.device("cpu")), context=GROUP)
    with pytest.raises(ValueError, match=sentence):
        load_policy(model, tokenizer, world, seed=0, max_length=256)


def test_the_loss_of_a_router_is_refused_because_it_is_of_all_tokens(tmp_path) -> None:
    settings = {"output_router_logits": True, "num_local_experts": 4, "router_aux_loss_coef": 0.1}
    model = save_family(tmp_path, "mixtral", **settings)
    tokenizer = train_tokenizer(TOKENIZER_TEXTS, TINY.vocab_size)
    policy = load_policy(model, tokenizer, World(0, 1, torch.device("cpu")), seed=0, max_length=20)
    assert RouterLoss.of(policy) is not None
    policy.context = GROUP
    with pytest.raises(ValueError, match="over all tokens of a batch, which context_parallel 2 splits: set output_r"):
        RouterLoss.of(policy)
