"""KL of the next token over the whole vocabulary: against all logits at once in float64, a few places at a time."""

from __future__ import annotations

import pytest
import torch
from test_head import stir_adapter
from test_policy import shake
from torch import Tensor
from trained_models import save_adapter, save_base

from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig, TrainConfig
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.distributions import Distributions, token_kl
from iwpo_fast.models.other_reference import LiveReference
from iwpo_fast.world import World

ALONE = World(0, 1, torch.device("cpu"))
PLACES, WIDTH, VOCABULARY = 7, 3, 5
OPTIONS = [{}, {"scale": 0.3}, {"softcap": 2.0}, {"scale": 3.0, "softcap": 1.5}]


def random_head(seed: int, dtype: torch.dtype = torch.float64, *, bias: bool = True, **options: float) -> Distributions:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    hidden, weight = normal(PLACES, WIDTH), normal(VOCABULARY, WIDTH)
    return Distributions(hidden, weight, normal(VOCABULARY) if bias else None, **options)


def all_at_once(head: Distributions) -> Tensor:
    """[N, V] log-probs in float64, from all logits."""
    z = head.scale * (head.hidden.double() @ head.weight.double().T)
    z = z if head.bias is None else z + head.scale * head.bias.double()
    return (z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)).log_softmax(-1)


def naive(policy: Distributions, reference: Distributions) -> Tensor:
    p, q = all_at_once(policy), all_at_once(reference)
    return torch.stack([sum(a.exp() * (a - b) for a, b in zip(*row, strict=True)) for row in zip(p, q, strict=True)])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("at_once", [1, 3 * VOCABULARY, 1000], ids=["one place", "three places", "all places"])
def test_it_is_the_sum_over_the_whole_vocabulary(options: dict[str, float], at_once: int) -> None:
    policy, reference = random_head(0, **options), random_head(1, bias=False, **options)
    torch.testing.assert_close(token_kl(policy, reference, at_once=at_once), naive(policy, reference))
    assert (naive(policy, reference) > 0.01).all()


@pytest.mark.parametrize("options", OPTIONS)
def test_its_gradient_is_that_of_differences(options: dict[str, float]) -> None:
    policy, reference = random_head(2, **options), random_head(3, **options)
    leaves = [part.requires_grad_() for part in (policy.hidden, policy.weight, policy.bias)]

    def kl(*parts: Tensor) -> Tensor:
        moved = policy._replace(hidden=parts[0], weight=parts[1], bias=parts[2])
        return token_kl(moved, reference, at_once=2 * VOCABULARY)

    assert torch.autograd.gradcheck(kl, leaves)


def test_it_is_0_with_no_gradient_where_the_policy_is_the_reference() -> None:
    policy = random_head(4)
    policy.hidden.requires_grad_()
    kl = token_kl(policy, policy)
    kl.sum().backward()
    assert kl.abs().max() == 0
    torch.testing.assert_close(policy.hidden.grad, torch.zeros_like(policy.hidden))


def test_no_more_logits_than_asked_for_are_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    log_probs = Distributions.log_probs
    monkeypatch.setattr(Distributions, "log_probs", lambda self: seen.append(len(self.hidden)) or log_probs(self))
    policy = random_head(5)
    policy.hidden.requires_grad_()
    token_kl(policy, random_head(6), at_once=2 * VOCABULARY).sum().backward()
    # Four parts of two places or one, of both models, and all of them once more in the backward pass.
    assert max(seen) == 2 and sum(seen) == 2 * 2 * PLACES


def test_bfloat16_products_have_float32_logits() -> None:
    policy, reference = random_head(7, torch.bfloat16), random_head(8, torch.bfloat16)
    kl = token_kl(policy, reference)
    assert kl.dtype == torch.float32
    torch.testing.assert_close(kl.double(), naive(policy, reference), rtol=1e-5, atol=1e-6)


def test_float32_master_weights_are_rounded_to_the_products_and_their_gradient_is_not() -> None:
    policy, reference = random_head(9, torch.bfloat16, bias=False), random_head(10, torch.bfloat16, bias=False)
    master = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    token_kl(policy._replace(weight=master), reference, at_once=VOCABULARY).sum().backward()
    rounded = policy._replace(weight=master.detach().bfloat16().double().requires_grad_())
    naive(rounded, reference).sum().backward()
    assert master.grad.dtype == torch.float32
    torch.testing.assert_close(master.grad.double(), rounded.weight.grad, rtol=2e-2, atol=2e-2)


def test_nothing_is_no_kl() -> None:
    none = random_head(0)._replace(hidden=torch.zeros(0, WIDTH))
    assert token_kl(none, none).shape == (0,)


def plain_distributions(model: torch.nn.Module, batch: FlatBatch) -> Tensor:
    """[N, V] log-probs in float64 at the supervised tokens of a batch, by transformers' own logits."""
    whole = batch.input_ids[batch.expand_index].split(batch.cu_seqlens.diff().tolist())
    completions = batch.segments.diff().tolist()
    logits = [model(input_ids=s[None]).logits[0, -n - 1 : -1] for s, n in zip(whole, completions, strict=True)]
    return torch.cat(logits).double().log_softmax(-1)


@pytest.mark.parametrize("layout", ["flat", "padded"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])
def test_a_policy_has_the_distributions_of_its_models_own_logits(policy_of, batch, family, layout) -> None:
    policy = policy_of(family, batch_layout=layout)
    with torch.no_grad():
        found = policy.eval().distributions(batch).log_probs().double()
        with policy.plain_attention() as model:
            expected = plain_distributions(model, batch)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def config_of(policy_model: str, **options: object) -> TrainConfig:
    return TrainConfig(DataConfig("none", max_length=20), ModelConfig(policy_model, **options), seed=3)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]], ids=["all_linear", "lm_head"])
def test_the_live_reference_of_a_new_adapter_is_the_policy_without_it(policy_of, tokenizer, batch, targets) -> None:
    lora = LoraConfig(rank=2, target_modules=targets)
    policy = policy_of("llama", lora=lora)
    live = LiveReference.of(config_of("none", lora=lora), policy, tokenizer, ALONE)
    assert live.policy is policy
    with torch.no_grad():
        before = policy.distributions(batch).log_probs()
        stir_adapter(policy)
        with live.running() as model:
            reference = model.distributions(batch)
        assert policy.training
        after = policy.distributions(batch)
    assert reference.log_probs().equal(before)
    assert (token_kl(after, reference) > 1e-4).all()


def test_the_live_reference_of_all_weights_is_a_copy_that_stands_still(policy_of, tokenizer, batch, tmp_path) -> None:
    policy = policy_of("llama")
    live = LiveReference.of(config_of(str(tmp_path / "llama")), policy, tokenizer, ALONE)
    with torch.no_grad():
        before = policy.distributions(batch).log_probs()
        shake(policy)
        with live.running() as model:
            assert model is not policy and not any(p.requires_grad for p in model.parameters())
            assert model.distributions(batch).log_probs().equal(before)


def test_the_live_reference_of_an_adapter_that_is_trained_further_has_it_as_it_was(tokenizer, batch, tmp_path) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    config = config_of(str(base), adapter=str(adapter))
    own = load_tokenizer(config.model, ())
    policy = load_policy(config.model, own, ALONE, seed=3, max_length=20)
    live = LiveReference.of(config, policy, own, ALONE)
    with torch.no_grad():
        before = policy.distributions(batch).log_probs()
        shake(policy)
        with live.running() as model:
            assert model.distributions(batch).log_probs().equal(before)
        assert not policy.distributions(batch).log_probs().equal(before)
