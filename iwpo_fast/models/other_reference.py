"""A reference beside the policy: another model, or a second copy of what the policy was before training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import ModelConfig, TrainConfig
from iwpo_fast.models.load import load_policy, load_tokenizer
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.pretrained import Source
from iwpo_fast.models.reference import as_reference
from iwpo_fast.models.sharding import shard_mesh
from iwpo_fast.models.trained import is_adapter, source_of
from iwpo_fast.world import World


def load_reference(config: TrainConfig, tokenizer: PreTrainedTokenizerBase, world: World) -> Policy:
    """The model that `model.reference` names, with all its weights, laid out as the policy is.

    Args:
        tokenizer: the policy's, by which the data have become tokens.

    Raises:
        ValueError: it cannot be read, or reads other tokens.
    """
    given = config.model.reference
    assert given is not None
    settings = replace(
        config.model,
        path=given,
        revision=None,
        lora=None,
        adapter=None,
        reference=None,
        quantize="none",
        gradient_checkpointing="none",
        offload_activations=False,
        neftune_alpha=None,
    )
    settings.path = source_of(given, "model.reference", trust_remote_code=settings.trust_remote_code).path
    if is_adapter(Source.of(settings)):
        raise ValueError(
            f"model.reference {given} is an adapter: write it into its base (iwpo merge), and give the result as "
            "model.reference."
        )
    try:
        own = load_tokenizer(settings, ())
        if own.get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"model.reference {given} reads other tokens than model.path {config.model.path}, so their log-probs "
                "cannot be compared: give a model with the same tokenizer."
            )
        mesh = shard_mesh(world, config.shard_over)
        limit = config.data.max_length
        return load_policy(settings, tokenizer, world, seed=config.seed, max_length=limit, mesh=mesh)
    except ValueError as error:
        said = str(error)
        raise ValueError(
            said if "model.reference" in said else said.replace("model.path", "model.reference")
        ) from error


@dataclass(frozen=True)
class LiveReference:
    """A reference that runs what is new to it at every step, such as completions that the policy has just drawn.

    Attributes:
        policy: the one that is trained, where it is its own reference without its adapter; else a model beside it.
    """

    policy: Policy

    @classmethod
    def of(cls, config: TrainConfig, policy: Policy, tokenizer: PreTrainedTokenizerBase, world: World) -> LiveReference:
        """The reference of a training that begins from `policy`; it is loaded where the policy cannot be it.

        Raises:
            ValueError: as of `load_reference`.
        """
        if not stands_beside(config.model):
            return cls(policy)
        if config.model.reference is not None:
            beside = load_reference(config, tokenizer, world)
        else:
            model = replace(config.model, gradient_checkpointing="none", offload_activations=False, neftune_alpha=None)
            beside = load_policy(model, tokenizer, world, seed=config.seed, max_length=config.data.max_length)
        beside.requires_grad_(False)
        return cls(beside)

    @contextlib.contextmanager
    def running(self) -> Iterator[Policy]:
        """The model that is the reference while the body runs: evaluation mode, no gradients."""
        with as_reference(self.policy):
            yield self.policy


def stands_beside(model: ModelConfig) -> bool:
    """Whether a live reference is a model of its own: another one, or a copy where no new adapter can be switched off.

    An adapter that is trained further is switched off to the base, and not to what it was.
    """
    return model.reference is not None or model.lora is None
