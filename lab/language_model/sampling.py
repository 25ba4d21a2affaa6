"""Completions sampled from a policy with random numbers that policies share, and the KL along them.

A loss of beta · log(π/π_ref) does not know beta, so policies that went further or less far are compared after scaling:
log π_c = log π_ref + c (log π - log π_ref), normalised at each token, is what another beta would have led to
(decoding-time realignment, Liu et al. 2024, arXiv 2402.02992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

FINISHED_BEFORE_REMOVAL = 0.125  # of the rows; removing copies the cache of those that stay


@dataclass(frozen=True)
class Samples:
    """Completions of n prompts.

    Attributes:
        tokens: int64 [n, L + T], prompts padded on the left, then completions padded on the right.
        mask: bool [n, L + T], False for padding.
        logps: float32 [n, T, V], log-probs of every token of the vocabulary at each place of the completions.
    """

    tokens: Tensor
    mask: Tensor
    logps: Tensor

    @property
    def drawn(self) -> Tensor:
        """bool [n, T], places where a token was drawn, the end token among them."""
        return self.mask[:, -self.logps.shape[1] :]

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Completions without special tokens."""
        return cast(Any, tokenizer).batch_decode(self.tokens[:, -self.logps.shape[1] :], skip_special_tokens=True)


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    seed: int,
    reference: Any = None,
    scale: float = 1.0,
) -> Samples:
    """One completion for each prompt, by the Gumbel trick.

    The noise of a prompt at a place depends on the seed alone, so two policies that are alike draw much the same.

    Args:
        model: causal language model of transformers with its own attention.
        reference: another one, for a scale other than 1.
        scale: c, factor on the log-ratio of model and reference.
    """
    encoded = tokenizer(list(prompts), padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    prompt, mask = cast(Tensor, encoded["input_ids"]), cast(Tensor, encoded["attention_mask"]).bool()
    count, vocabulary = len(prompt), model.config.vocab_size
    completion = torch.full((count, max_new_tokens), cast(int, tokenizer.pad_token_id))
    drawn = torch.zeros(count, max_new_tokens, dtype=torch.bool)
    logps = torch.zeros(count, max_new_tokens, vocabulary)
    random = torch.Generator().manual_seed(seed)
    runs = [(one, DynamicCache()) for one in ([model] if scale == 1 else [model, reference])]
    rows, live = torch.arange(count), torch.ones(count, dtype=torch.bool)
    inputs, seen = prompt, mask
    for place in range(max_new_tokens):
        now, *base = (_next_logps(one, cache, inputs, seen) for one, cache in runs)
        if base:
            now = torch.lerp(base[0], now, scale).log_softmax(-1)
        noise = torch.empty(count, vocabulary).exponential_(generator=random)
        token = (now - noise[rows].log()).argmax(-1)
        here = rows[live]
        completion[here, place], drawn[here, place], logps[here, place] = token[live], True, now[live]
        live = live & (token != tokenizer.eos_token_id)
        if not live.any():
            break
        inputs, seen = token[:, None], torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.bool)], 1)
        if live.float().mean() < 1 - FINISHED_BEFORE_REMOVAL:
            kept = live.nonzero()[:, 0]
            for _, cache in runs:
                cache.batch_select_indices(kept)
            inputs, seen, rows, live = inputs[kept], seen[kept], rows[kept], live[kept]
    places = place + 1
    return Samples(
        torch.cat([prompt, completion[:, :places]], 1), torch.cat([mask, drawn[:, :places]], 1), logps[:, :places]
    )


def _next_logps(model: Any, cache: DynamicCache, inputs: Tensor, seen: Tensor) -> Tensor:
    """float32 [rows, V], of the next token, from the tokens that the cache does not have yet."""
    positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
    output = model(inputs, attention_mask=seen.long(), position_ids=positions, past_key_values=cache, logits_to_keep=1)
    return output.logits[:, -1].float().log_softmax(-1)


@torch.no_grad()
def kl_along(samples: Samples, reference: Any) -> Tensor:
    """float32 [n], sum over the places of a completion of KL(π ‖ π_ref) of the next token.

    Its mean over samples of π is KL(π ‖ π_ref), as is that of log π - log π_ref, with less variance.
    """
    places = samples.logps.shape[1]
    positions = (samples.mask.cumsum(1) - 1).clamp(min=0)
    output = reference(
        samples.tokens, attention_mask=samples.mask.long(), position_ids=positions, logits_to_keep=places + 1
    )
    ref = output.logits[:, :-1].float().log_softmax(-1)
    kl = (samples.logps.exp() * (samples.logps - ref)).sum(-1)
    return kl.where(samples.drawn, 0).sum(1)
