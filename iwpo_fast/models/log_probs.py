"""Log-probs of a batch under a model of transformers, without its logits, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iwpo_fast.models.head import LMHead

IGNORED = -100


def log_probs_of(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The log-prob of every label, as cross-entropy on the model's logits would have it.

    The head's matrix, softcap and scales are found in the model and its configuration (`LMHead`), and labels are
    shifted here: the hidden state of position t predicts the label of position t + 1.

    Args:
        model: a causal language model of transformers, or a peft model around one; not yet wrapped by DDP or FSDP,
            whose hooks only their own forward runs.
        batch: what the model takes, `input_ids` [B, L] among it, and `labels` int64 [B, L], -100 where there is
            nothing to predict.

    Returns:
        float32 [B, L], 0 where the label is -100 and at the first position.

    Raises:
        ValueError: the batch is no mapping with tokens and labels of their shape, or the head is no plain linear layer.
    """
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        raise ValueError('The batch needs input_ids and labels: pass {"input_ids": tokens, "labels": labels}.')
    labels, tokens = batch.get("labels"), batch["input_ids"]
    if labels is None or labels.shape != tokens.shape:
        raise ValueError("The batch needs labels of the shape of input_ids, -100 where nothing is to be predicted.")
    base: Any = model
    if hasattr(base, "get_base_model"):  # an adapter is around it
        base = base.get_base_model()
    head = LMHead(base)
    given = {name: value for name, value in batch.items() if name != "labels"}
    hidden = head.decoder(**given, use_cache=False).last_hidden_state.flatten(0, 1)
    served = labels.clone()
    served[:, 0] = IGNORED  # nothing is before the first token
    place = served.flatten().ne(IGNORED).nonzero()[:, 0]
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
    found = head.token_logps(hidden, labels.flatten()[place], place - 1, dtype or hidden.dtype)
    return found.new_zeros(labels.numel()).index_put((place,), found).view_as(labels)
