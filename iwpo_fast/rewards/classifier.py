"""Scores by an external reward model: a sequence classifier with one output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from iwpo_fast.data.rows import Message, Text
from iwpo_fast.models.attention import native_attention
from iwpo_fast.models.pretrained import Source, read_pretrained
from iwpo_fast.models.sound import check_finite, check_token_ids
from iwpo_fast.progress import progress

WHAT = "sequence classifier"
"""What `rewards.model` names."""


@torch.no_grad()
def classifier_scores(
    path: str,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    *,
    tokens_per_batch: int,
    device: torch.device,
    trust_remote_code: bool = False,
) -> NDArray[np.float64]:
    """[C] fp64, the classifier's output for each completion after its prompt.

    Texts are joined as they are; conversations go through the classifier's own chat template. Nothing is cut.

    Args:
        path: folder or hub id of a `AutoModelForSequenceClassification` with one label.
        prompts, completions: C texts each, or C lists of messages each.
        tokens_per_batch: padded tokens of a batch; a single longer text runs alone.
        device: in bfloat16 on a GPU and in float32 on a CPU.
        trust_remote_code: whether code that the classifier brings may run.

    Raises:
        ValueError: there is no such model, it has several labels, or it has no chat template for conversations.
    """
    tokenizer, model = _load(source_of(path, trust_remote_code), device)
    encoded = [
        _encode(tokenizer, prompt, completion, path) for prompt, completion in zip(prompts, completions, strict=True)
    ]
    scores = np.empty(len(encoded))
    with progress("reward model", len(encoded), "text") as bar:
        for rows in _batches([len(ids) for ids in encoded], tokens_per_batch):
            batch = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt").to(device)
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            scores[rows] = output.logits[:, 0].double().cpu().numpy()
            bar.update(len(rows))
    return scores


def source_of(path: str, trust_remote_code: bool) -> Source:
    """Where the classifier is, under the name of its setting."""
    return Source(path, "rewards.model", trust_remote_code=trust_remote_code)


def check_label(settings: PreTrainedConfig, path: str) -> None:
    """Raise ValueError unless a model with these settings has one output."""
    if settings.num_labels != 1:
        raise ValueError(f"rewards.model {path} has {settings.num_labels} labels: give a reward model with one.")


def _load(source: Source, device: torch.device) -> tuple[PreTrainedTokenizerBase, torch.nn.Module]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokenizer = read_pretrained(AutoTokenizer, source, WHAT)
    model = read_pretrained(AutoModelForSequenceClassification, source, WHAT, weights=True, dtype=dtype)
    check_label(model.config, source.path)
    check_token_ids(tokenizer, model, source.path)
    check_finite(model, source.path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    # The classifier reads the last token before padding, which it recognises by this id.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.set_attn_implementation(native_attention(model.config))
    return tokenizer, model.to(device).eval()


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text, path: str) -> list[int]:
    if isinstance(prompt, str):
        assert isinstance(completion, str)
        ids: list[int] = tokenizer(prompt + completion)["input_ids"]
        return ids
    if tokenizer.chat_template is None:
        raise ValueError(f"The data hold conversations but rewards.model {path} has no chat template: give it one.")
    messages = [*prompt, *cast(list[Message], completion)]
    encoded: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    return list(encoded["input_ids"])


def _batches(lengths: Sequence[int], budget: int) -> Iterator[NDArray[np.int64]]:
    """Rows of similar length together, so that little is padding; the longest first, so that memory fails early."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // lengths[order[start]])
        yield order[start : start + size]
        start += size
