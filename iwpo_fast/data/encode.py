"""Text to token ids, many rows in one call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.rows import Message, Rows, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_AT_ONCE = 256

Ids = list[int]


@dataclass(frozen=True)
class Tokens:
    """Token ids of K of N rows, not yet cut: those whose prompt tokens begin both prompt + completion.

    Attributes:
        rows: int64 [K], rising, which rows these are.
        prompt, chosen, rejected: int32 ids, K rows each.
    """

    rows: np.ndarray
    prompt: Ragged
    chosen: Ragged
    rejected: Ragged


def encode_rows(rows: Rows, tokenizer: PreTrainedTokenizerBase, *, add_eos: bool, progress: bool) -> Tokens:
    """Encode prompt, prompt + chosen and prompt + rejected, and take what follows the prompt as completion.

    Strings are encoded whole, with the tokenizer's beginning-of-sequence token; conversations go through the chat
    template, which writes all special tokens itself.

    Raises:
        ValueError: a row cannot be rendered, or has a prompt without tokens.
    """
    encode = _Encoder(tokenizer, special_tokens=not rows.conversational)
    kept: list[int] = []
    chunks: list[tuple[Ragged, Ragged, Ragged]] = []
    with tqdm(total=len(rows), desc="tokenising", unit="row", disable=None if progress else True) as bar:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = range(start, min(start + ROWS_AT_ONCE, len(rows)))
            if rows.conversational:
                texts = _conversations(rows, some, tokenizer)
            else:
                texts = _strings(rows, some, tokenizer, add_eos)
            ids = encode(texts)
            n = len(some)
            triples = dict(zip(some, zip(ids[:n], ids[n : 2 * n], ids[2 * n :], strict=True), strict=True))
            _check_prompts(rows, triples)
            split = {row: parts for row, triple in triples.items() if (parts := _split(*triple))}
            kept += split
            columns = zip(*split.values(), strict=True) if split else ((), (), ())
            chunks.append(tuple(Ragged.from_rows(column) for column in columns))  # type: ignore[arg-type]
            bar.update(n)
    return Tokens(np.array(kept, dtype=np.int64), *map(Ragged.concatenate, zip(*chunks, strict=True)))


def _split(prompt: Ids, chosen: Ids, rejected: Ids) -> tuple[Ids, Ids, Ids] | None:
    """Prompt and completions, or None where the prompt does not begin both sequences."""
    length = len(prompt)
    if chosen[:length] != prompt or rejected[:length] != prompt:
        return None
    return prompt, chosen[length:], rejected[length:]


def _check_prompts(rows: Rows, triples: dict[int, tuple[Ids, Ids, Ids]]) -> None:
    for row, (prompt, _, _) in triples.items():
        if not prompt:
            raise ValueError(
                f"In {rows.source}, row {rows.numbers[row]} has an empty prompt, so nothing predicts the first "
                "completion token: give it a prompt, or use a tokenizer that adds a beginning-of-sequence token."
            )


class _Encoder:
    """Encodes lists of strings, the fast way where the tokenizer has a Rust core."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, special_tokens: bool) -> None:
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens
        self.bos = tokenizer.bos_token_id
        # This call also takes back any padding and truncation that earlier users set in the Rust core.
        probe = tokenizer("a", add_special_tokens=special_tokens, return_special_tokens_mask=True)
        mask = probe["special_tokens_mask"]
        self.added_behind = mask[::-1].index(0) if 0 in mask else 0

    def __call__(self, texts: list[str]) -> list[Ids]:
        return [self._trimmed(ids) for ids in self._encode(texts)]

    def _encode(self, texts: list[str]) -> list[Ids]:
        if not self.tokenizer.is_fast:
            return self.tokenizer(texts, add_special_tokens=self.special_tokens)["input_ids"]
        core = self.tokenizer.backend_tokenizer
        return [encoding.ids for encoding in core.encode_batch_fast(texts, add_special_tokens=self.special_tokens)]

    def _trimmed(self, ids: Ids) -> Ids:
        """Without tokens that the tokenizer adds behind every text, and without a second beginning-of-sequence."""
        start = 1 if self.special_tokens and self.bos is not None and ids[:2] == [self.bos, self.bos] else 0
        return ids[start : len(ids) - self.added_behind] if start or self.added_behind else ids


def _strings(rows: Rows, some: Sequence[int], tokenizer: PreTrainedTokenizerBase, add_eos: bool) -> list[str]:
    end = tokenizer.eos_token if add_eos else ""
    if end is None:
        raise ValueError("The tokenizer has no end-of-sequence token: set data.add_eos to false, or give it one.")

    def ended(text: Any) -> str:
        return text if text.endswith(end) else text + end

    prompts: list[Any] = [rows.prompt[row] for row in some]
    return [
        *prompts,
        *(prompt + ended(rows.chosen[row]) for prompt, row in zip(prompts, some, strict=True)),
        *(prompt + ended(rows.rejected[row]) for prompt, row in zip(prompts, some, strict=True)),
    ]


def _conversations(rows: Rows, some: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    def joined(completions: list[Text]) -> list[list[Message]]:
        return [[*rows.prompt[row], *completions[row]] for row in some]

    prompts = joined([[]] * len(rows))
    return [
        *_rendered(rows, some, prompts, tokenizer, add_generation_prompt=True),
        *_rendered(rows, some, joined(rows.chosen), tokenizer),
        *_rendered(rows, some, joined(rows.rejected), tokenizer),
    ]


def _rendered(
    rows: Rows,
    some: Sequence[int],
    conversations: list[list[Message]],
    tokenizer: PreTrainedTokenizerBase,
    **options: bool,
) -> list[str]:
    """Conversations through the chat template, those with the same tools and keywords in one call."""
    from jinja2 import TemplateError

    arguments = [rows.template[row] if rows.template else {} for row in some]
    texts: list[str] = []
    for _, group in groupby(range(len(some)), key=lambda i: json.dumps(arguments[i], sort_keys=True)):
        members = list(group)
        try:
            texts += _apply(tokenizer, [conversations[i] for i in members], arguments[members[0]] | options)
        except (TemplateError, TypeError) as error:
            for i in members:
                _check_renders(tokenizer, conversations[i], arguments[i] | options, rows, some[i])
            raise ValueError(f"The chat template fails on {rows.source} ({error}): correct the template.") from error
    return texts


def _check_renders(
    tokenizer: PreTrainedTokenizerBase, conversation: list[Message], arguments: dict[str, Any], rows: Rows, row: int
) -> None:
    try:
        _apply(tokenizer, [conversation], arguments)
    except Exception as error:
        raise ValueError(
            f"In {rows.source}, row {rows.numbers[row]} does not fit the chat template ({error}): correct its messages, "
            "or set data.chat_template."
        ) from error


def _apply(
    tokenizer: PreTrainedTokenizerBase, conversations: list[list[Message]], arguments: dict[str, Any]
) -> list[str]:
    rendered: Any = tokenizer.apply_chat_template(conversations, tokenize=False, **arguments)
    return rendered
