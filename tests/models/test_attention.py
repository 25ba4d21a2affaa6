"""Flat batches give what separate sequences give, with shared prompts too, and models that cannot are padded."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import FAMILIES, LAYOUTS, assert_same_gradients, gradients, plain_logps

from iwpo_fast.config import LoraConfig, ModelConfig
from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models import attention, load, load_policy
from iwpo_fast.models.attention import CannotRunFlat, Sequences, attend, rectangles_of

PROMPTS, COMPLETIONS = (4, 1, 4), ((1, 1, 4), (7, 1, 12))
"""Of three pairs, chosen and rejected; the first and the third have one prompt."""

LENGTHS = [p + c for side in COMPLETIONS for p, c in zip(PROMPTS, side, strict=True)]

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")]


def prompts_of_three_pairs() -> FlatBatch:
    def rows(lengths: tuple[int, ...]) -> Ragged:
        return Ragged.from_rows([np.arange(n) for n in lengths])

    chosen, rejected = map(rows, COMPLETIONS)
    return flat_batch(Pairs(rows(PROMPTS), chosen, rejected, weight=np.ones(3)), np.arange(3))


def random_heads(kv_heads: int, tokens: int) -> list[torch.Tensor]:
    """Query [T, 4, 16], key and value [T, kv_heads, 16]."""
    torch.manual_seed(0)
    return [torch.randn(tokens, heads, 16, requires_grad=True) for heads in (4, kv_heads, kv_heads)]


def dense_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """[T, Hq, D] in float64: one softmax over all keys, with a block-diagonal causal mask."""
    row = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    mask = (row[:, None] == row[None]).tril()
    groups = query.shape[1] // key.shape[1]
    q, k, v = (x.double().cpu().transpose(0, 1) for x in (query, key, value))
    k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    scores = (scale * q @ k.transpose(1, 2)).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1)


@pytest.mark.parametrize(
    ("backend", "device", "dtype"),
    [
        ("sdpa_by_length", "cpu", torch.float32),
        pytest.param("sdpa_by_length", "cuda", torch.bfloat16, marks=ON_GPU),
        pytest.param("varlen", "cuda", torch.bfloat16, marks=ON_GPU),
    ],
)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_backend_is_causal_attention_inside_each_sequence(backend, device, dtype, shared, kv_heads):
    batch = prompts_of_three_pairs().to(torch.device(device))
    leaves = random_heads(kv_heads, batch.tokens if shared else sum(LENGTHS))
    ours = attend(*(x.to(device, dtype) for x in leaves), Sequences.of(batch, backend, shared=shared), 0.2).cpu()
    whole, own = batch.whole.cpu(), batch.own.cpu()
    theirs = dense_attention(*((x[whole] if shared else x) for x in leaves), 0.2)
    theirs = theirs[own] if shared else theirs
    bound = 2e-6 if dtype == torch.float32 else 2e-2
    assert (ours.double() - theirs).abs().max() <= bound
    direction = torch.randn_like(theirs)
    gradients = (torch.autograd.grad(out, leaves, direction.to(out)) for out in (ours, theirs))
    for mine, exact in zip(*gradients, strict=True):
        assert (mine - exact).abs().max() <= bound * exact.abs().max()


SHAPES = [([0], [1]), ([0] * 5, [5, 1, 8, 5, 1]), ([0] * 7, [100, 95, 90, 89, 2, 81, 100]), ([3, 0, 3, 1], [7] * 4)]


@pytest.mark.parametrize(("before", "own"), SHAPES)
def test_rectangles_hold_every_query_once_and_its_keys_up_to_it(before, own):
    """Cells are checked one by one against the sequences that they are cut from."""
    query_bounds, key_bounds = np.cumsum([0, *own]), np.cumsum([0, *(np.array(before) + own)])
    rectangles, queries, keys, place = rectangles_of(query_bounds, key_bounds)
    assert queries[place].tolist() == list(range(sum(own)))
    assert sum(r.rows * r.queries for r in rectangles) == len(queries) <= sum(own) / 0.9
    assert sum(r.rows * r.keys for r in rectangles) == len(keys)
    start_q = start_k = rows = 0
    for r in rectangles:
        mask = r.mask(torch.device("cpu"))
        visible = np.tri(r.queries, r.keys, dtype=bool) if mask is None else mask.numpy() == 0
        for _ in range(r.rows):
            q, k = queries[start_q : start_q + r.queries], keys[start_k : start_k + r.keys]
            s = np.searchsorted(query_bounds, q[0], side="right") - 1
            for i, token in enumerate(q[: own[s]]):
                assert token == query_bounds[s] + i
                assert k[visible[i]].tolist() == [key_bounds[s] + j for j in range(before[s] + i + 1)]
            start_q, start_k, rows = start_q + r.queries, start_k + r.keys, rows + 1
    assert rows == len(own)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("takes_groups", [True, False], ids=["torch_2_13", "torch_2_11"])
def test_varlen_attention_is_asked_for_causal_attention_in_each_sequence(monkeypatch, kv_heads, takes_groups):
    signature = inspect.signature(attention.varlen_attn)

    def stand_in(*args, **kwargs):
        """What the documentation of `varlen_attn` promises, on a CPU."""
        given = signature.bind(*args, **kwargs).arguments
        assert given["window_size"] == (-1, 0)
        assert given["max_q"] == given["max_k"] == max(LENGTHS)
        assert given["cu_seq_q"].dtype == torch.int32
        assert torch.equal(given["cu_seq_q"].diff(), torch.tensor(LENGTHS)) and given["cu_seq_k"] is given["cu_seq_q"]
        same_heads = given["query"].shape[1] == given["key"].shape[1]
        assert given.get("enable_gqa", False) == (not same_heads)
        assert takes_groups or same_heads
        return dense_attention(given["query"], given["key"], given["value"], given["scale"]).float()

    monkeypatch.setattr(attention, "varlen_attn", stand_in)
    monkeypatch.setattr(attention, "VARLEN_TAKES_GROUPS", takes_groups)
    batch = prompts_of_three_pairs()
    heads = random_heads(kv_heads, batch.tokens)
    ours = attend(*heads, Sequences.of(batch, "varlen", shared=True), 0.2)
    assert (ours - dense_attention(*(x[batch.whole] for x in heads), 0.2)[batch.own]).abs().max() <= 2e-6


def test_a_backend_that_does_not_suit_the_model_is_passed_over(policy_of, batch, monkeypatch):
    monkeypatch.setattr(load, "backends", lambda device, dtype: ["varlen", "sdpa_by_length"])
    mla = {"model_type": "deepseek_v3", "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
           "qk_nope_head_dim": 4, "v_head_dim": 6, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
           "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 4, "head_dim": 4}  # fmt: skip
    policy = policy_of("llama", changes=mla)
    assert (policy.layout, policy.attention) == ("shared", "sdpa_by_length")
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
    assert ((policy(batch) - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_gpu_computes_in_bf16_with_float32_master_weights(policy_of, batch, tmp_path, tokenizer, family, lora):
    exact = policy_of(family, lora=lora)(batch)
    config = ModelConfig(path=str(tmp_path / family), lora=lora)
    policy = load_policy(config, tokenizer, seed=3, device=torch.device("cuda"), max_length=20)
    assert policy.attention == ("varlen" if family == "llama" else "eager")
    assert {p.dtype for p in policy.trainable_parameters().values()} == {torch.float32}
    frozen = {p.dtype for p in policy.parameters() if not p.requires_grad}
    assert frozen == ({torch.bfloat16} if lora else set())
    logps = policy(batch.to(policy.device))
    assert 0 < (logps.cpu() - exact).abs().max() < 0.5
    assert all(g.isfinite().all() for g in gradients(logps.cpu(), policy).values())


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gemma2", "gemma3_text", "cohere2"}))
def test_all_layouts_give_the_same_log_probs_and_gradients(policy_of, batch, family):
    policy = policy_of(family)
    assert (policy.layout, policy.attention) == ("shared", "sdpa_by_length")
    shared = policy(batch)
    shared_gradients = gradients(shared, policy)
    policy.run_flat("for comparison", policy.attention, share_prompts=False)
    flat = policy(batch)
    flat_gradients = gradients(flat, policy)
    policy.run_padded("for comparison")
    assert policy.attention in ("sdpa", "eager")
    padded = policy(batch)
    padded_gradients = gradients(padded, policy)
    for ours, our_gradients in ((shared, shared_gradients), (flat, flat_gradients)):
        assert ((ours - padded).abs() <= 5e-6 * (1 + padded.abs())).all()
        assert_same_gradients(our_gradients, padded_gradients)


@pytest.mark.parametrize(
    ("family", "changes"),
    [("gemma2", {"attn_logit_softcapping": None, "sliding_window": 20}), ("gemma3_text", {"sliding_window": 20})],
)
def test_prompts_are_shared_where_a_sliding_window_holds_every_sequence(policy_of, batch, family, changes):
    policy = policy_of(family, changes=changes)
    assert policy.layout == "shared"
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
        their_gradients = gradients(theirs, policy)
    ours = policy(batch)
    assert ((ours - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()
    assert_same_gradients(gradients(ours, policy), their_gradients)


def test_flat_batches_do_not_run_while_the_models_own_attention_is_lent(policy_of, batch):
    policy = policy_of("llama")
    with policy.plain_attention(), pytest.raises(AssertionError, match="does not see where flat sequences begin"):
        policy(batch)


def test_only_the_shared_layout_runs_each_prompt_once(policy_of, batch):
    policy = policy_of("llama")
    seen = []
    policy.head.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    policy(batch)
    policy.run_flat("for comparison", policy.attention, share_prompts=False)
    policy(batch)
    assert seen == [batch.tokens, batch.whole.numel()] == [37, 59]


def test_pairs_cost_as_many_tokens_as_their_layout_runs(policy_of):
    pairs = Pairs(*(Ragged.from_rows([[5] * n]) for n in (3, 4, 2)), weight=np.ones(1))
    policy = policy_of("llama")
    assert policy.tokens(pairs).tolist() == [9]
    for layout in ("flat", "padded"):
        assert policy_of("llama", **LAYOUTS[layout]).tokens(pairs).tolist() == [12]


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_a_sequence_does_not_see_its_neighbours(policy_of, batch, options):
    policy = policy_of("llama", **options)
    completion = slice(int(batch.hidden_index[0]) + 1, int(batch.cu_laid_out[1]))
    other = batch.input_ids.clone()
    other[completion] = (other[completion] + 1) % 200
    before, after = policy(batch), policy(replace(batch, input_ids=other))
    first = int(batch.segments[1])
    assert not torch.equal(before[:first], after[:first])
    assert torch.equal(before[first:], after[first:])


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gemma2", {}, "sliding window of 4 tokens"),
        ("gemma2", {"sliding_window": 64}, "softcap on attention scores"),
        ("mistral", {"sliding_window": 19}, "sliding window of 19 tokens"),
        ("llama", {"model_type": "gpt_oss", "num_local_experts": 2, "num_experts_per_tok": 1,
                   "layer_types": ["full_attention"] * 2}, "attention sinks"),
        ("llama", {"model_type": "llama4_text", "num_local_experts": 2, "intermediate_size_mlp": 48},
         "layers of type chunked_attention"),
        ("llama", {"model_type": "nemotron"}, "does not hand keyword arguments on"),
        ("llama", {"model_type": "mamba", "state_size": 4}, "does not take its attention from"),
        ("llama", {"model_type": "bloom", "n_head": 4, "n_layer": 2}, "does not take its attention from"),
    ],
)  # fmt: skip
def test_models_that_cannot_run_flat_are_padded_or_refused_with_the_reason(policy_of, batch, family, changes, reason):
    policy = policy_of(family, changes=changes)
    assert policy.layout == "padded"
    assert reason in policy.layout_reason
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
    assert ((policy(batch) - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()
    with pytest.raises(ValueError, match=f"batch_layout is flat but.*cannot run flat.*{reason}.*: set auto or padded"):
        policy_of(family, changes=changes, batch_layout="flat")
    with pytest.raises(ValueError, match=f"share_prompts is true but.*cannot share.*{reason}.*: set auto or false"):
        policy_of(family, changes=changes, share_prompts=True)


def test_a_sliding_window_that_holds_every_sequence_does_not_matter(policy_of, batch):
    wide = {"sliding_window": 20}
    assert policy_of("mistral", changes=wide, max_length=None).layout == "padded"
    policy = policy_of("mistral", changes=wide, max_length=20)
    assert policy.layout == "shared"
    with policy.plain_attention() as model:
        theirs = plain_logps(model, batch)
    assert ((policy(batch) - theirs).abs() <= 5e-6 * (1 + theirs.abs())).all()
    policy = policy_of("mistral", changes={"sliding_window": 8}, max_length=8)
    with pytest.raises(CannotRunFlat, match="sliding window of 8"):
        policy(batch)


@pytest.mark.parametrize(("layout", "options"), LAYOUTS.items())
def test_the_layout_is_a_choice(policy_of, layout, options):
    policy = policy_of("llama", **options)
    assert (policy.layout, policy.layout_reason) == (layout, "asked for")


def test_padded_batches_with_shared_prompts_are_refused(policy_of):
    with pytest.raises(ValueError, match=r"share_prompts is true but .*batch_layout is padded"):
        policy_of("llama", batch_layout="padded", share_prompts=True)


def test_prompts_are_not_shared_where_log_probs_would_differ(policy_of, monkeypatch):
    error = load.largest_error
    monkeypatch.setattr(load, "largest_error", lambda p: float("inf") if p.layout == "shared" else error(p))
    policy = policy_of("llama")
    assert (policy.layout, policy.layout_reason) == ("flat", "with shared prompts its log-probs would differ")
    with pytest.raises(ValueError, match=r"cannot share them, its log-probs would differ.*: set auto or false"):
        policy_of("llama", share_prompts=True)


def test_prompts_are_not_shared_on_a_gpu_unless_asked_for():
    gpu = torch.device("cuda")
    [(share, reason)] = load._sharing(ModelConfig(), gpu)
    assert not share and reason == "on cuda prompts are shared only where model.share_prompts is true"
    assert load._sharing(ModelConfig(share_prompts=True), gpu) == [(True, "asked for")]


def test_the_model_can_generate_with_its_own_attention(policy_of, batch):
    policy = policy_of("llama")
    prompt, before = batch.input_ids[None, :3], policy(batch)
    with policy.plain_attention() as model:
        generated = model.generate(prompt, max_new_tokens=4, do_sample=False)
        greedy = model(generated[:, :-1], use_cache=False).logits[0, 2:].argmax(-1)
    assert torch.equal(generated[0, 3:], greedy)
    assert torch.equal(policy(batch), before)
