"""Features of prompts and responses: which hidden states they are, shared rows, and passes that are killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from iwpo_fast.config import LoraConfig, ModelConfig, TinyConfig
from iwpo_fast.data.pairs import CandidateTokens, Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.reference import pass_batches, with_reference
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.features import PairFeatures, pair_features
from iwpo_fast.world import World

ALONE = World(0, 1, torch.device("cpu"))
BUDGET = 60
TINY = TinyConfig(vocab_size=300, hidden_size=32, layers=2, heads=2)


def make_policy(**options) -> Policy:
    tokenizer = train_tokenizer(["The quick brown fox jumps over the lazy dog."], 300)
    policy = load_policy(ModelConfig(tiny=TINY, **options), tokenizer, ALONE, seed=3)
    generator = torch.Generator().manual_seed(5)
    for parameter in policy.trainable_parameters().values():  # new adapters add nothing: give them something to add
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy()


def make_pairs(rows: list[tuple[list[int], list[int], list[int]]]) -> Pairs:
    prompt, chosen, rejected = (Ragged.from_rows(part) for part in zip(*rows, strict=True))
    return Pairs(prompt=prompt, chosen=chosen, rejected=rejected, weight=np.ones(len(rows)))


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Twelve pairs of random tokens, then three that share a prompt, two of them a response."""
    rng = np.random.default_rng(0)

    def text() -> list[int]:
        return rng.integers(4, 260, rng.integers(1, 14)).tolist()

    rows = [(text(), text(), text()) for _ in range(12)]
    prompt, best, middle, worst = text(), text(), text(), text()
    rows += [(prompt, best, middle), (prompt, middle, worst), (prompt, best, worst)]
    return make_pairs([rows[i] for i in rng.permutation(len(rows))])


def features(policy: Policy, pairs: Pairs, folder: Path, **options) -> PairFeatures:
    settings = {"tokens_per_batch": BUDGET, "cache_dir": folder, "world": ALONE} | options
    return pair_features(policy, pairs, **settings)


def reference(policy: Policy, pairs: Pairs, folder: Path) -> Pairs:
    return with_reference(policy, pairs, ALONE, folder, tokens_per_batch=BUDGET)


def plain_state(policy: Policy, tokens: list[int], count: int = 1) -> np.ndarray:
    """[d], mean over the last `count` tokens, from the model as transformers runs it."""
    with torch.no_grad(), policy.plain_attention() as model:
        inputs = torch.tensor([tokens])
        return model(input_ids=inputs, output_hidden_states=True).hidden_states[-1][0, -count:].mean(0).numpy()


def saved(folder: Path) -> dict[str, bytes]:
    """The bytes of all files; of safetensors only the values, as the order of their metadata is random."""

    def content(file: Path) -> bytes:
        tensors = load_file(file).items() if file.suffix == ".safetensors" else ()
        return b"".join(value.tobytes() for _, value in sorted(tensors)) or file.read_bytes()

    return {str(file.relative_to(folder)): content(file) for file in folder.rglob("*") if file.is_file()}


class Killed(Exception):
    pass


@pytest.fixture
def count_batches(monkeypatch) -> Callable[..., list[int]]:
    """Count the batches the model runs from now on; optionally it is killed before the one after so many."""

    def start(kill_after: int | None = None) -> list[int]:
        calls: list[int] = []

        def counted(self, batch) -> Tensor:
            if len(calls) == kill_after:
                raise Killed
            calls.append(len(batch.segments) - 1)
            return real(self, batch)

        monkeypatch.setattr(Policy, "hidden_states", counted)
        return calls

    real = Policy.hidden_states
    return start


@pytest.mark.parametrize("options", [{"share_prompts": True}, {"share_prompts": False}, {"batch_layout": "padded"}])
def test_features_are_the_state_at_the_last_prompt_token_and_the_mean_over_the_completion(
    pairs, tmp_path, options
) -> None:
    policy = make_policy(**options)
    found = features(policy, pairs, tmp_path)
    for p in range(len(pairs)):
        prompt = pairs.prompt[p].tolist()
        expected = plain_state(policy, prompt)
        np.testing.assert_allclose(found.prompt[found.table.prompt[p]], expected, rtol=1e-3, atol=1e-4)
        for part, rows in ((pairs.chosen, found.table.chosen), (pairs.rejected, found.table.rejected)):
            expected = plain_state(policy, prompt + part[p].tolist(), len(part[p]))
            np.testing.assert_allclose(found.response[rows[p]], expected, rtol=1e-3, atol=1e-4)


def test_mean_logps_are_per_token_of_each_response_and_of_this_model_whatever_the_data_bring(
    policy, pairs, tmp_path
) -> None:
    found = features(policy, pairs, tmp_path)
    sums = reference(policy, pairs, tmp_path).ref_logps
    for side, (rows, part) in enumerate(((found.table.chosen, pairs.chosen), (found.table.rejected, pairs.rejected))):
        per_token = sums[:, side] / [len(part[p]) for p in range(len(pairs))]
        np.testing.assert_allclose(found.mean_logps[rows], per_token, rtol=1e-6)
    brought = {"ref_chosen_logps": np.arange(15.0), "ref_rejected_logps": -np.arange(15.0)}
    brings = replace(pairs, columns=brought)
    again, given = features(policy, brings, tmp_path), reference(policy, brings, tmp_path)
    assert np.array_equal(again.mean_logps, found.mean_logps)
    assert given.ref_token_logps is None and given.ref_logps[3].tolist() == [3, -3]


def test_features_are_memory_mapped_float16_and_read_only(policy, pairs, tmp_path) -> None:
    found = features(policy, pairs, tmp_path)
    assert found.prompt.shape == (13, 32) and found.response.shape == (27, 32)
    for array in (found.prompt, found.response):
        assert isinstance(array, np.memmap) and array.dtype == np.float16 and not array.flags.writeable


def test_equal_prompts_and_equal_responses_share_a_row(policy, tmp_path) -> None:
    pairs = make_pairs([([5, 6], [7], [8]), ([5], [6, 7], [8]), ([5, 6], [8], [9]), ([5, 6], [7], [7])])
    found = features(policy, pairs, tmp_path)
    assert found.table.prompt.tolist() == [0, 1, 0, 0]
    # [5] + [6, 7] and [5, 6] + [7] are the same tokens, but not the same prompt and completion.
    assert found.table.chosen.tolist() == [0, 2, 1, 0]
    assert found.table.rejected.tolist() == [1, 3, 4, 0]
    assert found.table.prompt_of.tolist() == [0, 0, 1, 1, 0]
    assert len(found.prompt) == 2 and len(found.response) == 5


def test_a_shared_row_does_not_depend_on_what_else_shares_it(policy, pairs, tmp_path) -> None:
    found = features(policy, pairs, tmp_path / "all")
    first = np.unique(found.table.prompt, return_index=True)[1]
    alone = features(policy, pairs.take(np.sort(first)), tmp_path / "first")
    np.testing.assert_allclose(found.prompt, alone.prompt, rtol=1e-3, atol=1e-4)


def test_prompt_keys_tell_prompts_apart_and_are_the_same_in_other_data(policy, pairs, tmp_path) -> None:
    found = features(policy, pairs, tmp_path / "all")
    assert len(set(found.prompt_keys)) == len(found.prompt_keys) == len(found.prompt)
    some = np.array([9, 4, 11])
    others = features(policy, pairs.take(some), tmp_path / "some")
    expected = [found.prompt_keys[m] for m in found.table.prompt[some]]
    assert [others.prompt_keys[m] for m in others.table.prompt] == expected
    assert set(fold_of_prompts(found.prompt_keys, 4, seed=0)) <= set(range(4))


def test_the_log_probs_are_bitwise_those_of_the_reference_pass(policy, pairs, tmp_path) -> None:
    expected = reference(policy, pairs, tmp_path / "plain")
    features(policy, pairs, tmp_path / "features")
    found = reference(policy, pairs, tmp_path / "features")
    assert np.array_equal(found.ref_logps, expected.ref_logps)
    for ours, theirs in zip(found.ref_token_logps, expected.ref_token_logps, strict=True):
        assert np.array_equal(ours.values, theirs.values) and np.array_equal(ours.offsets, theirs.offsets)
    assert saved(tmp_path / "features" / "reference") == saved(tmp_path / "plain" / "reference")


def test_one_pass_serves_the_reference_and_later_calls(policy, pairs, tmp_path, count_batches) -> None:
    calls = count_batches()
    found = features(policy, pairs, tmp_path)
    assert sum(calls) == len(found.response) == 27 and len(calls) > 3
    calls.clear()
    again = features(policy, pairs, tmp_path)
    reference(policy, pairs, tmp_path)
    assert not calls
    assert np.array_equal(found.response, again.response)


def test_log_probs_that_are_known_are_not_computed_again(policy, pairs, tmp_path, monkeypatch) -> None:
    def never(*arguments, **options) -> NoReturn:
        raise AssertionError("the LM head ran")

    reference(policy, pairs, tmp_path / "cached")
    monkeypatch.setattr(type(policy.head), "token_logps", never)
    features(policy, pairs, tmp_path / "cached")


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [0, 1, 3])
def test_a_killed_pass_goes_on_where_it_stopped_and_ends_in_the_same_bytes(
    policy, pairs, tmp_path, count_batches, kill_after
) -> None:
    whole = count_batches()
    features(policy, pairs, tmp_path / "whole")
    count_batches(kill_after)
    with pytest.raises(Killed):
        features(policy, pairs, tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob("*.npy"))
    assert not (tmp_path / "killed" / "reference").exists()
    rest = count_batches()
    features(policy, pairs, tmp_path / "killed")
    assert rest == whole[kill_after:]
    assert saved(tmp_path / "killed") == saved(tmp_path / "whole")
    assert sorted(Path(name).name for name in saved(tmp_path / "whole") if name.startswith("features")) == [
        "checksums.json",
        "lock",
        "prompt.npy",
        "response.npy",
    ]


@pytest.mark.slow
def test_a_kill_while_the_arrays_are_written_is_made_good_without_the_model(
    policy, pairs, tmp_path, monkeypatch, count_batches
) -> None:
    features(policy, pairs, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("iwpo_fast.rewards.store.join_parts", kill)
        with pytest.raises(Killed):
            features(policy, pairs, tmp_path / "killed")
    (folder,) = (tmp_path / "killed" / "features").iterdir()
    np.save(folder / "prompt.npy", np.zeros((2, 3)))
    (folder / ".response.npy.12345678.tmp").write_bytes(b"half")
    calls = count_batches()
    features(policy, pairs, tmp_path / "killed")
    assert not calls
    assert saved(tmp_path / "killed") == saved(tmp_path / "whole")


def kill(*arguments, **options) -> NoReturn:
    raise Killed


@pytest.mark.slow
def test_damaged_parts_and_arrays_are_computed_again(policy, pairs, tmp_path, count_batches, caplog) -> None:
    whole = count_batches()
    features(policy, pairs, tmp_path / "whole")
    count_batches(3)
    with pytest.raises(Killed):
        features(policy, pairs, tmp_path / "killed")
    damaged = sorted((tmp_path / "killed").rglob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-7])
    rest = count_batches()
    features(policy, pairs, tmp_path / "killed")
    assert len(rest) == len(whole) - 2
    assert saved(tmp_path / "killed") == saved(tmp_path / "whole")
    (array,) = (tmp_path / "killed").rglob("response.npy")
    array.write_bytes(array.read_bytes()[:-7])
    features(policy, pairs, tmp_path / "killed")
    assert "computing them again" in caplog.text
    assert saved(tmp_path / "killed") == saved(tmp_path / "whole")


@pytest.mark.slow
def test_an_adapter_is_off_and_the_policy_is_left_as_it_was(pairs, tmp_path) -> None:
    lora = make_policy(lora=LoraConfig(rank=4, dropout=0.5))
    with lora.disable_adapter(), torch.no_grad():
        expected = plain_state(lora, pairs.prompt[0].tolist())
    assert np.abs(plain_state(lora.eval(), pairs.prompt[0].tolist()) - expected).max() > 0.1
    lora.train()
    names = lora.trainable_parameters().keys()
    found = features(lora, pairs, tmp_path)
    np.testing.assert_allclose(found.prompt[0], expected, rtol=1e-3, atol=1e-4)
    assert lora.training and torch.is_grad_enabled() and lora.trainable_parameters().keys() == names


def test_a_killed_pass_leaves_gradients_and_training_mode_on(policy, pairs, tmp_path, count_batches) -> None:
    policy.train()
    count_batches(1)
    with pytest.raises(Killed):
        features(policy, pairs, tmp_path)
    assert policy.training and torch.is_grad_enabled()


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_hidden_states_that_float16_cannot_hold_are_refused(pairs, tmp_path, value) -> None:
    policy = make_policy()
    with torch.no_grad():
        policy.head.decoder.norm.weight[3] = value
    with pytest.raises(ValueError, match="features in float16 cannot hold"):
        features(policy, pairs, tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.slow
def test_ranks_that_share_a_folder_fill_the_same_arrays(policy, pairs, tmp_path, monkeypatch) -> None:
    """Rank 1 computes its parts first, then rank 0 its own and joins them."""
    monkeypatch.setattr(World, "barrier", lambda self: None if self.is_main else kill())
    monkeypatch.setattr(World, "largest", lambda self, number: number)
    with pytest.raises(Killed):
        features(policy, pairs, tmp_path / "two", world=World(1, 2, ALONE.device))
    found = features(policy, pairs, tmp_path / "two", world=World(0, 2, ALONE.device))
    alone = features(policy, pairs, tmp_path / "one")
    responses = Responses.of(pairs)
    dealt = pass_batches(policy, responses, BUDGET, World(0, 2, ALONE.device))
    assert all(sum(map(len, batches)) for batches in dealt)
    np.testing.assert_allclose(found.response, alone.response, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.prompt, alone.prompt, rtol=1e-3, atol=1e-4)


def with_candidates(pairs: Pairs, extra: int = 9) -> tuple[Pairs, list[list[int]]]:
    """The pairs with candidates, of which the first is the rejected response of its pair, and their token ids."""
    rng = np.random.default_rng(7)
    tokens = [pairs.rejected[3].tolist(), *(rng.integers(4, 260, rng.integers(1, 14)).tolist() for _ in range(extra))]
    pair = np.array([3, *rng.integers(0, len(pairs), extra)])
    candidates = CandidateTokens(Ragged.from_rows(tokens), pair=pair, source=np.arange(extra + 1))
    return replace(pairs, candidates=candidates), tokens


@pytest.mark.slow
def test_candidates_are_run_once_beside_the_pairs_with_features_and_log_probs_of_their_own(
    policy, pairs, tmp_path, count_batches
) -> None:
    whole, tokens = with_candidates(pairs)
    calls = count_batches()
    found = features(policy, whole, tmp_path)
    responses = Responses.of(whole)
    assert sum(calls) == len(responses) == len(Responses.of(pairs)) + len(tokens) - 1
    assert responses.candidates[0] == found.table.rejected[3]
    for k, ids in enumerate(tokens):
        prompt = pairs.prompt[whole.candidates.pair[k]].tolist()
        expected = plain_state(policy, prompt + ids, len(ids))
        np.testing.assert_allclose(found.response[responses.candidates[k]], expected, rtol=2e-3, atol=2e-3)
    assert found.mean_logps.all()
    known = reference(policy, whole, tmp_path)
    means = known.candidates.ref_logps / whole.candidates.completions.lengths
    np.testing.assert_allclose(found.mean_logps[responses.candidates], means, rtol=1e-6)
    ids = torch.tensor([pairs.prompt[whole.candidates.pair[4]].tolist() + tokens[4]])
    with torch.no_grad(), policy.plain_attention() as model:
        logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    assert known.candidates.ref_logps[4] == pytest.approx(logps[-len(tokens[4]) :].sum().item(), rel=1e-4)


@pytest.mark.slow
def test_candidates_change_nothing_of_the_pairs_whose_log_probs_training_finds_without_them(
    policy, pairs, tmp_path, count_batches, monkeypatch
) -> None:
    whole, _ = with_candidates(pairs)
    plain, more = features(policy, pairs, tmp_path / "plain"), features(policy, whole, tmp_path / "more")
    for name in ("chosen", "rejected", "prompt"):
        assert np.array_equal(getattr(plain.table, name), getattr(more.table, name))
    of_pairs = slice(len(plain.response))
    np.testing.assert_allclose(more.response[of_pairs], plain.response, rtol=2e-3, atol=1e-3)
    monkeypatch.delattr(Policy, "forward")
    found = reference(policy, pairs, tmp_path / "more")
    np.testing.assert_allclose(found.ref_logps, reference(policy, pairs, tmp_path / "plain").ref_logps, rtol=1e-5)
    keys = [{path.name for path in (tmp_path / place / "reference").iterdir()} for place in ("plain", "more")]
    assert keys[0] < keys[1] and len(keys[1]) == 2
    other, _ = with_candidates(pairs, extra=8)
    with pytest.raises(NotImplementedError):
        reference(policy, other, tmp_path / "more")


def test_features_of_a_response_are_means_over_its_trained_tokens(policy, tmp_path) -> None:
    prompt, first, between, last = [5, 6, 7], [8, 9], [10, 11, 12], [13, 14]
    context = [~token for token in between]
    found = features(policy, make_pairs([(prompt, [*first, *context, *last], first)]), tmp_path)
    tokens = [*prompt, *first, *between, *last]
    ends = (len(tokens), len(prompt) + len(first))
    parts = [plain_state(policy, tokens[:end], 2) for end in ends]
    np.testing.assert_allclose(found.response[0], np.mean(parts, axis=0), rtol=2e-2, atol=2e-3)
    np.testing.assert_allclose(found.prompt[0], plain_state(policy, prompt), rtol=2e-2, atol=2e-3)
    logps = reference(policy, make_pairs([(prompt, first, [*first, *between, *last])]), tmp_path)
    of_whole = logps.ref_token_logps[1].values
    trained = np.concatenate([of_whole[:2], of_whole[-2:]])
    np.testing.assert_allclose(found.mean_logps[0], trained.mean(), rtol=1e-4, atol=1e-4)
