"""The auxiliary loss of a mixture of experts, which keeps its router from sending all tokens to the same experts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.models.padding import pad
from iwpo_fast.models.policy import Policy

FUNCTION = "load_balancing_loss_func"
"""Its name in the files of models in transformers (Switch Transformer, arXiv 2101.03961, equations 4 to 6)."""


class RouterLoss:
    """The loss of the batch that the policy ran last, as the model itself computes it from its router's logits.

    It is E Σ_e f_e P_e, with f_e the share of choices that fell on expert e and P_e its mean probability, over the
    tokens of all layers of one micro-batch, those of every full sequence. It is not linear in the tokens, so it depends
    on how a step is cut into micro-batches, as it does in transformers.

    Attributes:
        coefficient: its factor in the training loss.
    """

    def __init__(self, policy: Policy) -> None:
        model, text = policy.causal_lm, policy.causal_lm.config.get_text_config()
        self.coefficient = _coefficient(text)
        self._policy = policy
        self._logits: Any = None
        self._function: Callable[..., Tensor] | None = getattr(sys.modules[type(model).__module__], FUNCTION, None)
        self._experts, self._chosen = _size(model, text, "num_experts"), _size(model, text, "num_experts_per_tok")
        if None in (self._function, self._experts, self._chosen):
            raise _unknown(model)
        policy.head.decoder.register_forward_hook(self._keep)

    @classmethod
    def of(cls, policy: Policy) -> RouterLoss | None:
        """The loss, if the model's configuration asks for it by `output_router_logits` and a coefficient.

        Raises:
            ValueError: it asks, and the model does not say how the loss is computed, or processes share each batch.
        """
        text = policy.causal_lm.config.get_text_config()
        if not getattr(text, "output_router_logits", False) or not _coefficient(text):
            return None
        if policy.context is not None:
            raise ValueError(
                f"The configuration of {type(policy.causal_lm).__name__} asks for the router's auxiliary loss by "
                f"output_router_logits, over all tokens of a batch, which context_parallel {policy.context.size} "
                "splits: set output_router_logits to false in its config.json, or context_parallel to 1."
            )
        return cls(policy)

    def __call__(self, batch: FlatBatch) -> Tensor:
        """float32 [], the loss of `batch`, which the policy has run last; with its gradient."""
        logits, self._logits = self._logits, None
        if not logits:
            raise _unknown(self._policy.causal_lm)
        assert self._function is not None
        return self._function(tuple(logits), self._experts, self._chosen, _counts(self._policy, batch))

    def _keep(self, _: nn.Module, __: object, output: Any) -> None:
        self._logits = getattr(output, "router_logits", None)


def _counts(policy: Policy, batch: FlatBatch) -> Tensor | None:
    """How often each token that the model ran is in the full sequences, as the mask that the loss takes; None for 1."""
    if policy.layout == "padded":
        return pad(batch)[1]
    if policy.layout == "flat":
        return None
    ones = torch.ones(len(batch.expand_index), device=batch.expand_index.device)
    return torch.zeros(batch.tokens, device=ones.device).index_add(0, batch.expand_index, ones)


def _coefficient(settings: Any) -> float:
    return float(getattr(settings, "router_aux_loss_coef", getattr(settings, "aux_loss_coef", 0.0)) or 0.0)


def _size(model: Any, settings: Any, name: str) -> int | None:
    return getattr(model, name, None) or getattr(settings, name, None)


def _unknown(model: nn.Module) -> ValueError:
    return ValueError(
        f"The configuration of {type(model).__name__} asks for the router's auxiliary loss by output_router_logits, "
        "but the model does not say how it is computed: set output_router_logits to false in its config.json to train "
        "without it."
    )
