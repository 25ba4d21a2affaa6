"""What answers end with, and whether the saved model stops there."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from iwpo_fast.data import Pairs
from iwpo_fast.data.ends import end_tokens
from iwpo_fast.models import Policy
from iwpo_fast.models.saving import saves_adapter, stop_tokens


def ends_of(pairs: Pairs, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Special tokens that the completions of these pairs end with."""
    return end_tokens([pairs.chosen, pairs.rejected], tokenizer)


def end_lines(policy: Policy, ends: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a person should know: that answers do not end, or end where generation has not stopped until now."""
    if not ends:
        return [
            "no completion ends with a token that stops generation, so the model does not learn to stop: set "
            "data.chat_template to one that ends answers with a special token, or for plain text data.add_eos to true"
        ]
    new = [end for end in ends if end not in stop_tokens(policy.model)]
    if not new:
        return []
    names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(new)))
    saved = (
        "an adapter cannot say so: give them as eos_token_id when you generate"
        if saves_adapter(policy.model)
        else "the saved generation_config.json stops there too"
    )
    return [f"answers end with {names}, at which the model's generation does not stop; {saved}"]
