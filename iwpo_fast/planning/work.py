"""What the model computes for batches: tokens, and floating-point operations (FLOPs).

A multiply-add is two operations. Norms, activation functions and the optimiser count nothing, embeddings neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import numpy as np
from torch import nn

from iwpo_fast.config import TrainConfig
from iwpo_fast.data.unique import Responses
from iwpo_fast.models.layers import decoder_layers
from iwpo_fast.models.policy import Layout, Policy


class Work(NamedTuple):
    """Batches that the model runs.

    Attributes:
        tokens: that run through the layers, padding among them; shared prompts count once.
        head_tokens: whose log-probs the LM head gives.
        attended: pairs of a query and a key in each head of each layer.
        batches: how many.
        largest: tokens and head tokens of the batch with most tokens.
    """

    tokens: int = 0
    head_tokens: int = 0
    attended: int = 0
    batches: int = 0
    largest: tuple[int, int] = (0, 0)

    def times(self, count: int) -> Work:
        return Work(
            count * self.tokens, count * self.head_tokens, count * self.attended, count * self.batches, self.largest
        )

    def beside(self, other: Work) -> Work:
        """Both."""
        tokens, head_tokens = self.tokens + other.tokens, self.head_tokens + other.head_tokens
        attended, batches = self.attended + other.attended, self.batches + other.batches
        return Work(tokens, head_tokens, attended, batches, max(self.largest, other.largest))


def total(works: Iterable[Work]) -> Work:
    whole = Work()
    for work in works:
        whole = whole.beside(work)
    return whole


def work_of_batch(layout: Layout, responses: Responses, sequences: np.ndarray) -> Work:
    """One batch of these responses, int64 [S], each behind its prompt; an empty one is no work."""
    if not len(sequences):
        return Work()
    prompt = responses.prompts.lengths[responses.prompt_of[sequences]]
    completion = responses.completions.lengths[sequences]
    whole, head = prompt + completion, int(completion.sum())
    if layout == "padded":
        tokens, attended = len(whole) * int(whole.max()), len(whole) * int(whole.max()) ** 2
    elif layout == "flat":
        tokens, attended = int(whole.sum()), int(_causal(whole).sum())
    else:
        once = responses.prompts.lengths[np.unique(responses.prompt_of[sequences])]
        tokens = int(once.sum()) + head
        attended = int(_causal(once).sum() + (prompt * completion + _causal(completion)).sum())
    return Work(tokens, head, attended, 1, (tokens, head))


def _causal(lengths: np.ndarray) -> np.ndarray:
    """Keys that the queries of a sequence attend to: 1 + 2 + ... + length."""
    return lengths * (lengths + 1) // 2


class Model(NamedTuple):
    """What FLOPs depend on.

    Attributes:
        active: parameters of the layers that each token meets, adapters among them.
        trained: those of them that are trained.
        layers: decoder layers.
        width: heads times their size.
        head: entries of the LM head.
        trains_head: the LM head is trained.
    """

    active: int
    trained: int
    layers: int
    width: int
    head: int
    trains_head: bool

    @classmethod
    def of(cls, policy: Policy) -> Model:
        text: Any = policy.causal_lm.config.get_text_config()
        layers = decoder_layers(policy.head.decoder)
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        experts = getattr(text, "num_experts_per_tok", None)
        weights = [(p, _met(p, experts)) for layer in layers for p in layer.parameters() if p.ndim > 1]
        return cls(
            active=sum(met for _, met in weights),
            trained=sum(met for p, met in weights if p.requires_grad),
            layers=len(layers),
            width=text.num_attention_heads * size,
            head=policy.head.linear.weight.numel(),
            trains_head=policy.head.linear.weight.requires_grad,
        )

    def forward(self, work: Work) -> float:
        """FLOPs without gradients: 2 per parameter and token, and 4 per width and pair of query and key."""
        return self._layers(work) + 2.0 * self.head * work.head_tokens

    def training(self, work: Work, config: TrainConfig, *, saves: bool) -> float:
        """FLOPs of forward and backward pass, recomputed layers included.

        The backward pass does the products of the forward pass once for the gradients of its inputs, and once more for
        those of trained weights; attention's costs twice its forward pass. The LM head does 2 products where it is
        frozen, and else 3, or 4 if its exponentials are not `saves`d (README of `linear_token_logps`).
        """
        attention = 4.0 * self.layers * self.width * work.attended
        layers = (4.0 * self.active + 2.0 * self.trained) * work.tokens + 3 * attention
        again = self._layers(work) if config.model.gradient_checkpointing == "full" else 0.0
        products = (3 if saves else 4) if self.trains_head else 2
        return layers + again + 2.0 * products * self.head * work.head_tokens

    def _layers(self, work: Work) -> float:
        return 2.0 * self.active * work.tokens + 4.0 * self.layers * self.width * work.attended


def _met(parameter: nn.Parameter, experts: int | None) -> int:
    """Entries that a token meets: of the weights of all experts, which are one tensor, those of the chosen ones."""
    entries = cast(int, parameter.numel())
    return entries * experts // parameter.shape[0] if experts and parameter.ndim == 3 else entries
