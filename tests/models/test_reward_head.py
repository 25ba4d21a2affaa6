"""The head by which a policy gives rewards: what it reads, its gradients, and the folder that keeps it."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig, ObjectiveConfig, OptimConfig
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.models import Policy
from iwpo_fast.models.reward_head import RewardHead, has_reward_head, head_to_train, own_rates
from iwpo_fast.models.saved_files import check_saved
from iwpo_fast.optimisation import make_optimizer, set_learning_rate
from iwpo_fast.training.loss import PreferenceLoss

LAYOUTS = {"shared": {}, "flat": {"share_prompts": False}, "padded": {"batch_layout": "padded"}}
TOKENS = {"max_length": 20, "truncation": "drop", "add_eos": True, "on_prefix_mismatch": "split"}


def given_a_head(policy: Policy, seed: int = 5) -> Policy:
    head = RewardHead(policy.head.linear.weight.shape[1], TOKENS)
    head.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    policy.reward_head = head
    return policy


def naive(policy: Policy, batch: FlatBatch) -> Tensor:
    """[S], each sequence by itself through the decoder of transformers, padded by nothing."""
    full, found = batch.input_ids[batch.expand_index], []
    with policy.plain_attention():
        for start, end in pairwise(batch.cu_seqlens.tolist()):
            states = policy.head.decoder(full[None, start:end]).last_hidden_state
            found.append(states[0, -1] @ policy.reward_head.weight[0])
    return torch.stack(found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_reward_is_read_at_the_last_token_of_its_own_sequence(policy_of, batch, layout) -> None:
    policy = given_a_head(policy_of("llama", **LAYOUTS[layout])).eval()
    assert policy.layout == layout
    with torch.no_grad():
        logps, rewards = policy.with_rewards(batch)
        torch.testing.assert_close(rewards, naive(policy, batch), rtol=1e-4, atol=1e-5)
        assert torch.equal(logps, policy(batch))
        assert torch.equal(policy.own_rewards(batch), rewards)
    assert rewards.dtype == torch.float32 and rewards.shape == (len(batch.cu_seqlens) - 1,)


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": "full"}], ids=["kept", "recomputed"])
@pytest.mark.parametrize("part", ["reward_head", "mlp.down_proj", "embed_tokens"])
def test_gradients_of_the_loss_reach_head_and_policy_as_differences_say(policy_of, batch, part, options) -> None:
    policy, loss = given_a_head(policy_of("llama", **options)), PreferenceLoss(ObjectiveConfig("drdo"))
    batch = dataclasses.replace(batch, scores=torch.linspace(-2, 1, 2 * batch.pairs)[:, None])

    def value() -> Tensor:
        return loss(loss.token_logps(policy, batch), batch, 4.0, {}).loss

    value().backward()
    moved = [p for name, p in policy.trainable_parameters().items() if part in name]
    gradients = [p.grad.clone() for p in moved]
    size, found, step = float(torch.stack([g.norm() for g in gradients]).norm()), [], 1e-3
    assert moved and size > 0
    with torch.no_grad():
        for sign in (1, -2):  # to one side along the gradient, then to the other
            for p, gradient in zip(moved, gradients, strict=True):
                p.add_(gradient, alpha=sign * step / size)
            found.append(float(value()))
    assert (found[0] - found[1]) / (2 * step) == pytest.approx(size, rel=0.01)


def test_a_new_head_is_zero_and_moves_nothing_of_the_policy(policy_of, batch) -> None:
    policy = policy_of("llama")
    policy.reward_head = RewardHead(policy.head.linear.weight.shape[1], TOKENS)
    rewards = policy.own_rewards(batch)
    assert not rewards.any()
    rewards.sum().backward()
    moved = {name for name, p in policy.trainable_parameters().items() if p.grad is not None and p.grad.any()}
    assert moved == {"reward_head.weight"}


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["whole", "adapter"])
def test_it_is_saved_in_a_folder_of_its_own_under_the_hashes_of_the_model(policy_of, tokenizer, tmp_path, lora) -> None:
    policy = given_a_head(policy_of("llama", lora=lora))
    folder = tmp_path / "saved"
    folder.mkdir()
    policy.save(folder, tokenizer)
    assert has_reward_head(folder) and not has_reward_head(tmp_path)
    assert not [path for path in folder.glob("*.safetensors") if "head" in path.name]  # vLLM reads all that are there
    again = RewardHead.load(folder)
    assert torch.equal(again.weight, policy.reward_head.weight) and again.tokens == TOKENS
    check_saved(folder, "model", weights=True)
    if lora is None:
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    path = folder / "reward_head" / "head.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"reward_head/head\.safetensors is damaged or gone"):
        check_saved(folder, "model", weights=True)
    with pytest.raises(ValueError, match=r"The reward head in .* is damaged: copy the model again"):
        RewardHead.load(folder)


def test_training_goes_on_with_the_head_of_the_model_that_it_starts_from(policy_of, tokenizer, tmp_path) -> None:
    data = DataConfig("pairs.jsonl", max_length=33)
    policy = given_a_head(policy_of("llama"))
    folder = tmp_path / "student"
    folder.mkdir()
    policy.save(folder, tokenizer)
    width = policy.reward_head.weight.shape[1]
    head = head_to_train(ModelConfig(path=str(folder)), data, width)
    assert torch.equal(head.weight, policy.reward_head.weight) and head.tokens["max_length"] == 33
    assert not head_to_train(ModelConfig(path=str(tmp_path)), data, width).weight.any()
    with pytest.raises(ValueError, match=rf"reads hidden states of size {width}, and the model has 7: give the model"):
        head_to_train(ModelConfig(path=str(folder)), data, 7)


def test_the_head_follows_the_schedule_at_its_own_rate(policy_of) -> None:
    policy = given_a_head(policy_of("llama"))
    optim = OptimConfig(lr=1e-3, schedule="linear", warmup_fraction=0)
    rates = own_rates(ObjectiveConfig("drdo", reward_head_lr=0.1))
    optimizer = make_optimizer(policy.trainable_parameters(), optim, rates)
    assert set_learning_rate(optimizer, 5, 10, optim) == pytest.approx(5e-4)
    of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(of) == len(policy.trainable_parameters())
    assert of.pop(id(policy.reward_head.weight)) == pytest.approx(0.05)
    assert list(of.values()) == pytest.approx([5e-4] * len(of))
    assert own_rates(ObjectiveConfig("drdo")) == {}


def test_a_sharded_policy_or_one_of_a_context_gives_no_states(policy_of, batch) -> None:
    policy = given_a_head(policy_of("llama"))
    policy.context = object()  # type: ignore[assignment]
    with pytest.raises(AssertionError, match="one process has a part"):
        policy.with_rewards(batch)


def test_formats_of_other_versions_are_refused(tmp_path: Path) -> None:
    from iwpo_fast.files import load_record, save_record

    RewardHead(4, TOKENS).save(tmp_path, {})
    path = tmp_path / "reward_head" / "reward_head.json"
    save_record(path, load_record(path) | {"format": 2})
    with pytest.raises(ValueError, match="has the format 2, and this version reads 1"):
        RewardHead.load(tmp_path)
