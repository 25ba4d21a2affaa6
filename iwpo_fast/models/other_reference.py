"""A reference that is another model than the policy before training."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import TrainConfig
from iwpo_fast.models.load import load_policy, load_tokenizer
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.pretrained import Source
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
