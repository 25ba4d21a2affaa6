"""Whether a model that was read can be what its files say: finite weights, and an embedding for every token."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from iwpo_fast.finite import not_finite
from iwpo_fast.models import four_bits
from iwpo_fast.models.saving import saved_buffers


def check_finite(model: nn.Module, path: str) -> None:
    """Raise ValueError if a weight or a saved buffer is not a number, or a weight infinite; names the first."""
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        weights |= {name: parameter, **{f"{name} ({key})": part for key, part in four_bits.scales(parameter).items()}}
    bad = not_finite(weights)
    bad += [name for name, buffer in saved_buffers(model).items() if _has_nan(buffer)]
    if bad:
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(
            f"{path} holds weights that are not finite, in {bad[0]}{others}: it was damaged, or saved after its "
            "training had failed, so give another checkpoint of it."
        )


def check_token_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, path: str) -> None:
    """Raise ValueError if the tokenizer has an id for which the embedding of the model has no row."""
    entries = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if len(tokenizer) > entries:
        raise ValueError(
            f"The tokenizer of {path} has {len(tokenizer)} entries but the model embeds {entries}: "
            "give the tokenizer that belongs to the model, or resize the embedding and save the model first."
        )
    token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if largest >= entries:
        raise ValueError(
            f"The tokenizer of {path} gives {token!r} the id {largest} but the model embeds {entries} tokens, ids 0 to "
            f"{entries - 1}: give the tokenizer that belongs to the model, or resize the embedding and save the model "
            "first."
        )


def _has_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isnan().any())
