"""The three strings of every row that are encoded: prompt, prompt + chosen, prompt + rejected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from iwpo_fast.data.records import first_line
from iwpo_fast.data.rows import Message, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rendered = tuple[list[str], list[str], list[str]]


def render(rows: Rows, some: Sequence[int], tokenizer: PreTrainedTokenizerBase, *, add_eos: bool) -> Rendered:
    """The strings of the given rows, conversations through the chat template.

    Args:
        add_eos: end each plain-text completion with the end-of-sequence token, unless it already does.

    Raises:
        ValueError: a conversation does not fit the template, or there is no token to end with.
    """
    if rows.conversational:
        return _conversations(rows, some, tokenizer)
    end = tokenizer.eos_token if add_eos else ""
    if end is None:
        raise ValueError("The tokenizer has no end-of-sequence token: set data.add_eos to false, or give it one.")
    return _strings(rows, some, end)


def _strings(rows: Rows, some: Sequence[int], end: str) -> Rendered:
    def ended(text: Any) -> str:
        return text if text.endswith(end) else text + end

    prompts: list[Any] = [rows.prompt[row] for row in some]
    chosen = [prompt + ended(rows.chosen[row]) for prompt, row in zip(prompts, some, strict=True)]
    rejected = [prompt + ended(rows.rejected[row]) for prompt, row in zip(prompts, some, strict=True)]
    return prompts, chosen, rejected


def _conversations(rows: Rows, some: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Rendered:
    parts: tuple[list[str], ...] = ([], [], [])
    # One call renders the rows that give the template the same tools and keywords; mostly that is all of them.
    for _, group in groupby(some, key=lambda row: json.dumps(rows.template and rows.template[row], default=str)):
        members = list(group)
        arguments = rows.template[members[0]] if rows.template else {}
        prompts: list[Any] = [rows.prompt[row] for row in members]
        for part, completions, ask in zip(parts, (None, rows.chosen, rows.rejected), (True, False, False), strict=True):
            conversations: list[list[Message]] = [
                [*prompt, *(completions[row] if completions else [])]
                for prompt, row in zip(prompts, members, strict=True)
            ]
            part += _apply(tokenizer, conversations, arguments | {"add_generation_prompt": ask}, rows, members)
    return parts[0], parts[1], parts[2]


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[Message]],
    arguments: dict[str, Any],
    rows: Rows,
    members: list[int],
) -> list[str]:
    """Render; if the template refuses, find out which row it is."""
    try:
        rendered: Any = tokenizer.apply_chat_template(conversations, tokenize=False, **arguments)
        return rendered
    except Exception as error:  # a template is a program, and may fail in any way
        if len(members) == 1:
            raise ValueError(
                f"In {rows.source}, row {rows.numbers[members[0]]} does not fit the chat template "
                f"({first_line(error)}): correct its messages, or set data.chat_template."
            ) from error
        for row, conversation in zip(members, conversations, strict=True):
            _apply(tokenizer, [conversation], arguments, rows, [row])
        raise
