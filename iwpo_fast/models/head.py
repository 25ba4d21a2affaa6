"""The LM head of a transformers model: what turns hidden states into log-probs, whatever the family."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from iwpo_fast.models.distributions import Distributions
from iwpo_kernels import TokenStatistics, linear_token_logps, linear_token_statistics

Head = nn.Linear | LoraLinear | ModulesToSaveWrapper


class LMHead:
    """log p(v | h) = log softmax_v f(scale · (h Wᵀ + bias)), f(z) = softcap · tanh(z / softcap) or f(z) = z.

    Args:
        model: a causal language model; a peft model's `get_base_model()` is one. Only its configuration is read;
            `probe` compares the result with the model's own logits.

    Attributes:
        module: the head, a linear layer [H → V], perhaps with LoRA on it or tied to the embedding, or one of peft's
            `modules_to_save`, beside which the layer of before is kept.
        decoder: everything before the head, which reads its `last_hidden_state`.
        softcap: bound of the logits (Gemma 2 and 3), or None.
        scale: multiplier of the logits (`logit_scale` of Cohere, 1 / `logits_scaling` of Granite).

    Raises:
        ValueError: the head is not a linear layer, or has an adapter on it that is not plain LoRA.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        text = model.config.get_text_config()
        logits_scaling = getattr(text, "logits_scaling", None)
        logit_scale = getattr(text, "logit_scale", None)
        scale = 1.0 if logit_scale is None else float(logit_scale)
        self.module: Head = _checked(model.get_output_embeddings(), type(model).__name__)
        self.decoder: PreTrainedModel = decoder_of(model)
        self.softcap: float | None = getattr(text, "final_logit_softcapping", None)
        self.scale = scale if logits_scaling is None else scale / float(logits_scaling)

    @property
    def linear(self) -> nn.Linear:
        """The head without adapters; that of `modules_to_save` while the adapter is on, else the one of before."""
        return _linear_of(self.module)

    @property
    def is_adapted(self) -> bool:
        """Whether `project` computes something for each hidden state."""
        return bool(_active_adapters(self.module))

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [T, H'] and weight [V, H'] whose product is the head's output without bias.

        LoRA on the head adds s · drop(h) Aᵀ Bᵀ, so the product is [h, s · drop(h) Aᵀ] · [W, B]ᵀ and
        H' = H + rank, exact with dropout too. Otherwise H' = H and both are returned as they are.

        The operator cannot leave a part of a weight frozen, so LoRA on the head costs what a trainable head does: a
        copy of W and a gradient [V, H'] of which B takes the last columns. Leave the head out of the adapter's
        target modules, as "all-linear" does, unless it has to be adapted.
        """
        weight = self.linear.weight
        adapters = _active_adapters(self.module)
        if not adapters:
            return hidden, weight
        hiddens, weights = [hidden], [weight]
        lora: Any = self.module
        for name in adapters:
            down, up = lora.lora_A[name], lora.lora_B[name]
            dropped = lora.lora_dropout[name](hidden.to(down.weight.dtype))
            hiddens.append(lora.scaling[name] * down(dropped).to(hidden.dtype))
            weights.append(up.weight.to(weight.dtype))
        return torch.cat(hiddens, dim=-1), torch.cat(weights, dim=-1)

    def token_logps(self, hidden: Tensor, labels: Tensor, hidden_index: Tensor, dtype: torch.dtype) -> Tensor:
        """float32 [N] log-probs of `labels` [N], read from rows `hidden_index` [N] of `hidden` [T, H].

        Products are of `dtype`; gradients reach the weight as it is stored. The operator takes float32 master weights
        as they are: it copies them to `dtype` while its forward pass runs, and their gradient is never rounded.
        """
        return linear_token_logps(**self._call(hidden, labels, hidden_index, dtype))

    def token_statistics(
        self, hidden: Tensor, labels: Tensor, hidden_index: Tensor, dtype: torch.dtype
    ) -> TokenStatistics:
        """`token_logps`, and what the distribution of each token looks like."""
        return linear_token_statistics(**self._call(hidden, labels, hidden_index, dtype))

    def distributions(self, hidden: Tensor, dtype: torch.dtype) -> Distributions:
        """Of the next token at each row of `hidden` [N, H]; products are of `dtype`."""
        hidden, weight = self.project(hidden)
        if weight.dtype != torch.float32:
            weight = weight.to(dtype)
        bias = self.linear.bias
        of_head = None if bias is None else bias.to(weight.dtype)
        return Distributions(hidden.to(dtype), weight, of_head, self.softcap, self.scale)

    def _call(self, hidden: Tensor, labels: Tensor, hidden_index: Tensor, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of the operators."""
        given = self.distributions(hidden, dtype)
        return {
            "hidden": given.hidden,
            "head_weight": given.weight,
            "labels": labels,
            "hidden_index": hidden_index,
            "bias": given.bias,
            "softcap": given.softcap,
            "scale": given.scale,
            "all_served": True,
        }


def _linear_of(head: Head) -> nn.Linear:
    module: Any = head
    if isinstance(head, LoraLinear):
        module = head.get_base_layer()
    elif isinstance(head, ModulesToSaveWrapper):
        module = head.original_module if head.disable_adapters else head.modules_to_save[head.active_adapters[0]]
    return cast(nn.Linear, module)


def _checked(head: nn.Module | None, model: str) -> Head:
    if isinstance(head, LoraLinear):
        plain = type(head.base_layer) is nn.Linear and not head.lora_variant and not any(head.lora_bias.values())
        if not plain:
            raise ValueError(
                f"The LM head of {model} has an adapter that is not plain LoRA (DoRA, LoRA with bias, ...): "
                "leave the head out of the adapter's target modules."
            )
        return head
    if isinstance(head, ModulesToSaveWrapper) and type(head.original_module) is nn.Linear:
        return head
    if type(head) is not nn.Linear:
        what = "no LM head" if head is None else f"an LM head of type {type(head).__name__}"
        raise ValueError(
            f"{model} has {what}, and its log-probs cannot be computed without logits: "
            "use a causal language model whose head is a plain linear layer."
        )
    return head


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The language model without its head and without what reads images or sound.

    Raises:
        ValueError: it cannot be told from the head.
    """
    for candidate in (model.get_decoder(), model.base_model, getattr(model, "model", None)):
        if isinstance(candidate, PreTrainedModel) and candidate is not model:
            return candidate
    raise ValueError(
        f"The decoder of {type(model).__name__} cannot be told from its head: use a causal language model that "
        "keeps them apart, as those of transformers do."
    )


def _active_adapters(head: Head) -> list[str]:
    if not isinstance(head, LoraLinear) or head.disable_adapters or head.merged:
        return []
    return [name for name in head.active_adapters if name in head.lora_A]
