"""Log-probs of the reference: their values, the cache, and the state the policy is left in."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from families import LAYOUTS, plain_logps
from safetensors.numpy import load_file, save_file
from test_head import stir_adapter
from torch import Tensor

from iwpo_fast.config import LoraConfig
from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.pairs import CandidateTokens, Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import Policy
from iwpo_fast.models import reference as module
from iwpo_fast.models.reference import as_reference, pass_batches, run_batches, with_reference
from iwpo_fast.models.reference_cache import keep_logps
from iwpo_fast.world import World

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def pairs(tokenizer) -> Pairs:
    rng = np.random.default_rng(0)

    def rows() -> Ragged:
        return Ragged.from_rows([rng.integers(0, len(tokenizer), n) for n in rng.integers(1, 9, 7)])

    return Pairs(prompt=rows(), chosen=rows(), rejected=rows(), weight=np.ones(7))


def reference(policy, pairs: Pairs, folder: Path, world: World = ALONE) -> Pairs:
    return with_reference(policy, pairs, world, folder, tokens_per_batch=50)


@pytest.mark.slow
def test_reference_log_probs_are_those_of_the_model_without_its_adapter(policy_of, pairs, tmp_path) -> None:
    plain, lora = policy_of("llama"), policy_of("llama", lora=LoraConfig(rank=4))
    stir_adapter(lora)
    found = reference(lora, pairs, tmp_path)
    for row in range(len(pairs)):
        batch = flat_batch(pairs, np.array([row]))
        with torch.no_grad(), plain.plain_attention() as model:
            expected = plain_logps(model.eval(), batch).numpy()
        tokens = np.concatenate([part[row] for part in found.ref_token_logps])
        np.testing.assert_allclose(tokens, expected, rtol=1e-5, atol=1e-5)
        sums = np.add.reduceat(expected, batch.segments[:-1].numpy())
        np.testing.assert_allclose(found.ref_logps[row], sums, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_second_call_reads_the_cache_and_a_damaged_cache_is_computed_again(
    policy_of, pairs, tmp_path, monkeypatch, caplog
) -> None:
    policy = policy_of("llama")
    found = reference(policy, pairs, tmp_path)
    with monkeypatch.context() as patch:
        patch.delattr(type(policy), "forward")
        assert np.array_equal(reference(policy, pairs, tmp_path).ref_logps, found.ref_logps)
    (file,) = (tmp_path / "reference").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert np.array_equal(reference(policy, pairs, tmp_path).ref_logps, found.ref_logps)
    assert "computing them again" in caplog.text


@pytest.mark.slow
def test_layouts_do_not_share_a_cache_entry(policy_of, pairs, tmp_path) -> None:
    policies = (policy_of("llama", **options) for options in LAYOUTS.values())
    shared, *others = (reference(policy, pairs, tmp_path).ref_logps for policy in policies)
    assert len(list((tmp_path / "reference").iterdir())) == 3
    for other in others:
        np.testing.assert_allclose(shared, other, rtol=1e-5)


@pytest.fixture
def run_by_model(monkeypatch) -> list[FlatBatch]:
    """The batches that policies run from now on."""
    batches, real = [], Policy.forward

    def counted(self, batch, **options) -> Tensor:
        batches.append(batch)
        return real(self, batch, **options)

    monkeypatch.setattr(Policy, "forward", counted)
    return batches


def four_to_a_prompt(tokenizer, prompts: int = 5) -> tuple[Pairs, Ragged, Ragged]:
    """The six pairs of four completions to each prompt, in any order, and what they are made of."""
    rng = np.random.default_rng(1)

    def rows(count: int, low: int, high: int) -> list[np.ndarray]:
        return [rng.integers(0, len(tokenizer), n) for n in rng.integers(low, high, count)]

    asked, answers = rows(prompts, 8, 15), rows(4 * prompts, 1, 9)
    choices = [(p, 4 * p + i, 4 * p + j) for p in range(prompts) for i in range(4) for j in range(i + 1, 4)]
    choices = [choices[i] for i in rng.permutation(len(choices))]
    prompt = Ragged.from_rows([asked[p] for p, _, _ in choices])
    chosen, rejected = (Ragged.from_rows([answers[choice[side]] for choice in choices]) for side in (1, 2))
    pairs = Pairs(prompt, chosen, rejected, weight=np.ones(len(choices)))
    return pairs, Ragged.from_rows(asked), Ragged.from_rows(answers)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_four_completions_of_a_prompt_in_six_pairs_are_each_run_once_and_the_prompt_once_for_all_where_it_is_shared(
    policy_of, tokenizer, tmp_path, run_by_model, layout
) -> None:
    pairs, asked, answers = four_to_a_prompt(tokenizer)
    policy = policy_of("llama", **LAYOUTS[layout])
    found = reference(policy, pairs, tmp_path)
    assert sum(len(batch.labels) for batch in run_by_model) == len(answers.values)
    once_for_all, once_for_each = len(asked.values), 4 * len(asked.values)
    laid_out = sum(batch.tokens for batch in run_by_model)
    separate = sum(len(batch.expand_index) for batch in run_by_model)
    if layout == "shared":
        assert len(run_by_model) > 2 and laid_out == once_for_all + len(answers.values)
    assert separate == once_for_each + len(answers.values)
    run_by_model.clear()
    for row in (0, 7, 29):
        with torch.no_grad():
            expected = policy(flat_batch(pairs, np.array([row]))).numpy()
        np.testing.assert_allclose(np.concatenate([part[row] for part in found.ref_token_logps]), expected, atol=1e-5)


def test_pairs_that_are_there_again_cost_the_reference_nothing(policy_of, pairs, tmp_path, run_by_model) -> None:
    policy = policy_of("llama")
    once = reference(policy, pairs, tmp_path / "once")
    tokens = sum(batch.tokens for batch in run_by_model)
    run_by_model.clear()
    counts = np.array([3, 0, 1, 2, 5, 1, 1])
    resampled = pairs.take(np.repeat(np.arange(7), counts))
    again = reference(policy, resampled, tmp_path / "again")
    assert sum(batch.tokens for batch in run_by_model) == tokens - pairs.tokens_laid_out[1]
    np.testing.assert_allclose(again.ref_logps, once.ref_logps[np.repeat(np.arange(7), counts)], rtol=1e-5)
    run_by_model.clear()
    assert np.array_equal(reference(policy, resampled, tmp_path / "again").ref_logps, again.ref_logps)
    assert not run_by_model


@pytest.mark.slow
def test_pairs_of_known_responses_find_their_log_probs_and_others_are_left_to_a_pass(
    policy_of, tokenizer, tmp_path, run_by_model
) -> None:
    pairs, _, _ = four_to_a_prompt(tokenizer)
    known, others = pairs.take(np.arange(20)), pairs.take(np.arange(20, 30))
    loose = CandidateTokens(
        Ragged.concatenate([others.chosen, others.rejected]),
        pair=np.array([_first_with(known.prompt, others.prompt[i % 10]) for i in range(20)]),
        source=np.arange(20),
    )
    policy = policy_of("llama")
    for known_pairs, kept in ((known, False), (replace(known, candidates=loose), True)):
        folder = tmp_path / str(kept)
        keep_logps(folder, policy, others, known_pairs, ALONE)
        assert not folder.exists()  # because nothing is known before a pass
        reference(policy, known_pairs, folder)
        swapped = replace(others, chosen=others.rejected, rejected=others.chosen)
        mixed = pairs.take(np.array([25, 3, 21, 25]))
        for wanted in (swapped, mixed):
            run_by_model.clear()
            keep_logps(folder, policy, wanted, known_pairs, ALONE)
            found = reference(policy, wanted, folder)
            assert bool(run_by_model) != kept
            expected = reference(policy, wanted, tmp_path / "fresh")
            np.testing.assert_allclose(found.ref_logps, expected.ref_logps, rtol=1e-5)
            for ours, theirs in zip(found.ref_token_logps, expected.ref_token_logps, strict=True):
                np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-5, atol=1e-6)


def _first_with(prompts: Ragged, prompt: np.ndarray) -> int:
    return next(i for i in range(len(prompts)) if np.array_equal(prompts[i], prompt))


@pytest.mark.slow
def test_responses_of_one_prompt_share_a_batch_where_prompts_are_shared(policy_of, tokenizer) -> None:
    pairs, _, _ = four_to_a_prompt(tokenizer)
    responses = Responses.of(pairs)
    for layout, options in LAYOUTS.items():
        [batches] = pass_batches(policy_of("llama", **options), responses, 60, ALONE)
        together = [set(responses.prompt_of[rows]) for rows in batches if len(rows)]
        assert (sum(map(len, together)) == 5) == (layout == "shared")


@pytest.mark.slow
def test_each_rank_computes_its_own_rows_and_the_sum_joins_them(policy_of, pairs, tmp_path, monkeypatch) -> None:
    policy = policy_of("llama")
    whole = reference(policy, pairs, tmp_path / "whole")
    monkeypatch.setattr(World, "barrier", lambda self: None)
    monkeypatch.setattr(World, "sum_", lambda self, tensor: tensor)
    monkeypatch.setattr(World, "largest", lambda self, number: number)
    parts = [
        reference(policy, pairs, tmp_path / str(rank), World(rank, 2, ALONE.device)).ref_logps for rank in range(2)
    ]
    filled = [part.any(axis=1) for part in parts]
    assert all(rows.any() for rows in filled) and (filled[0] ^ filled[1]).all()
    np.testing.assert_allclose(sum(parts), whole.ref_logps, rtol=1e-5)


@pytest.mark.slow
def test_a_rank_that_finds_the_log_probs_computes_them_with_one_that_does_not(
    policy_of, pairs, tmp_path, monkeypatch
) -> None:
    policy, computed = policy_of("llama"), []
    found = reference(policy, pairs, tmp_path)
    real = module._compute
    monkeypatch.setattr(module, "_compute", lambda *args: computed.append(1) or real(*args))
    assert np.array_equal(reference(policy, pairs, tmp_path).ref_logps, found.ref_logps) and not computed
    monkeypatch.setattr(World, "largest", lambda self, number: 1)
    assert np.array_equal(reference(policy, pairs, tmp_path).ref_logps, found.ref_logps) and computed


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_a_policy_is_its_reference_only_inside_the_body_also_when_that_fails(policy_of, training) -> None:
    policy = policy_of("llama", lora=LoraConfig(rank=4)).train(training)
    names = policy.trainable_parameters().keys()
    with pytest.raises(KeyError), as_reference(policy):
        assert not policy.training and not torch.is_grad_enabled() and not policy.trainable_parameters()
        raise KeyError
    assert policy.training == training and torch.is_grad_enabled()
    assert policy.trainable_parameters().keys() == names


def test_batches_are_visited_in_order_and_empty_ones_are_passed_over(policy_of, pairs) -> None:
    responses, policy = Responses.of(pairs), policy_of("llama")
    batches = [np.array([3, 1]), np.array([], dtype=np.int64), np.array([6])]
    with as_reference(policy):
        seen = [(rows.tolist(), b.labels.tolist()) for rows, b in run_batches(policy, responses, batches, ALONE)]
    expected = [np.concatenate([responses.completions[i] for i in rows]).tolist() for rows in ([3, 1], [6])]
    assert seen == [([3, 1], expected[0]), ([6], expected[1])]


@pytest.mark.slow
def test_context_has_no_log_probs_and_what_is_behind_it_those_it_had_as_trained(policy_of, pairs, tmp_path) -> None:
    policy = policy_of("llama")
    whole = reference(policy, pairs, tmp_path)
    context = np.arange(len(pairs.chosen.values)) % 3 == 1
    masked = Ragged(np.where(context, ~pairs.chosen.values, pairs.chosen.values), pairs.chosen.offsets)
    found = reference(policy, replace(pairs, chosen=masked), tmp_path)
    expected = np.where(context, 0, whole.ref_token_logps[0].values)
    np.testing.assert_allclose(found.ref_token_logps[0].values, expected, rtol=1e-5, atol=1e-6)
    sums = [expected[start:end].sum() for start, end in pairwise(pairs.chosen.offsets.tolist())]
    np.testing.assert_allclose(found.ref_logps[:, 0], sums, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.ref_logps[:, 1], whole.ref_logps[:, 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", [0.02, 0.3, 0.62, 0.9])
def test_one_flipped_bit_of_cached_log_probs_is_found(policy_of, pairs, tmp_path, caplog, place) -> None:
    policy = policy_of("llama")
    found = reference(policy, pairs, tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "reference").iterdir()
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(damaged))] ^= 0x40
    file.write_bytes(damaged)
    assert np.array_equal(reference(policy, pairs, tmp_path / "cache").ref_logps, found.ref_logps)
    assert "are damaged: computing them again" in caplog.text and file.read_bytes() == whole


def test_log_probs_of_versions_before_are_read_as_they_are(policy_of, pairs, tmp_path, monkeypatch) -> None:
    policy = policy_of("llama")
    found = reference(policy, pairs, tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "reference").iterdir()
    save_file(load_file(file), file, {"tokens": "abc", "format": "2"})
    monkeypatch.delattr(type(policy), "forward")
    assert np.array_equal(reference(policy, pairs, tmp_path / "cache").ref_logps, found.ref_logps)
