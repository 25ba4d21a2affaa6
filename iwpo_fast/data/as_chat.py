"""Plain text as conversations, for a model that was trained with a chat template."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from iwpo_fast.data.arrow_rows import stored, taken
from iwpo_fast.data.forms import ASSISTANT, HUMAN
from iwpo_fast.data.rows import Message, Rows, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AsChat = bool | Literal["auto"]
ROLES = {HUMAN: "user", ASSISTANT: "assistant"}
TURN = re.compile(f"({re.escape(HUMAN)}|{re.escape(ASSISTANT)})")


def of_one_kind(rows: Rows, as_chat: AsChat) -> Rows:
    """Training rows that are all plain text or all conversations, as `data.as_chat` says.

    Raises:
        ValueError: they are mixed and the setting is false, or it is true and no row is plain text.
    """
    plain = np.fromiter((isinstance(prompt, str) for prompt in rows.prompt), dtype=bool, count=len(rows))
    if as_chat is True and not plain.any():
        raise ValueError(f"{rows.where(0)} is a conversation already: leave data.as_chat out.")
    if as_chat is True or (as_chat == "auto" and not plain.all()):
        return as_conversations(rows)
    if other := np.flatnonzero(plain != plain[0]).tolist():
        raise ValueError(
            f"{rows.where(other[0])} mixes conversations and plain text with the rows before it: make all rows the "
            "same, or set data.as_chat to true."
        )
    return rows


def for_model(rows: Rows, tokenizer: PreTrainedTokenizerBase, as_chat: AsChat, template: str | None) -> Rows:
    """With `data.as_chat: auto` and a chat template, of the model or of `data.chat_template`, conversations."""
    has_template = template is not None or tokenizer.chat_template is not None
    return as_conversations(rows) if as_chat == "auto" and has_template else rows


def as_conversations(rows: Rows) -> Rows:
    """Prompts as the user's message and responses as the assistant's; conversations stay as they are.

    Dialogues in Anthropic's HH form become their turns.
    """
    if all(isinstance(prompt, list) for prompt in rows.prompt):
        return rows
    candidates = rows.candidates
    return replace(
        rows,
        prompt=stored(map(_question, rows.prompt)),
        chosen=_answers(rows.chosen, rows.prompt),
        rejected=_answers(rows.rejected, rows.prompt),
        candidates=candidates
        and replace(candidates, texts=_answers(candidates.texts, taken(rows.prompt, candidates.row))),
    )


def has_later_turns(prompt: Text, answer: str) -> bool:
    """Whether an answer to a dialogue in HH form goes on with further turns."""
    return _asks_in_hh_form(prompt) and (HUMAN in answer or ASSISTANT in answer)


def own_spans(prompt: Text, answer: str) -> list[tuple[int, int]] | None:
    """Of an answer to a dialogue in HH form that goes on with further turns, the characters that are the assistant's,
    from the first number to before the second; None for an answer that is its alone. The end of the text belongs to the
    last turn."""
    if not has_later_turns(prompt, answer):
        return None
    spans, place, speaker = [], 0, "assistant"
    for part in TURN.split(answer):
        if part in ROLES:
            speaker = ROLES[part]
        elif speaker == "assistant":
            spans.append((place, place + len(part)))
        place += len(part)
    if speaker == "assistant":
        spans[-1] = (spans[-1][0], sys.maxsize)
    return spans


def _asks_in_hh_form(prompt: Text) -> bool:
    """Whether a prompt, be it a regular dialogue or not, ends where the assistant of a dialogue is to speak."""
    return isinstance(prompt, str) and HUMAN in prompt and prompt.rstrip().endswith(ASSISTANT)


def _question(text: Text) -> Text:
    if not isinstance(text, str):
        return text
    return _turns(text) or [{"role": "user", "content": text}]


def _turns(text: str) -> list[Message]:
    """The turns of a dialogue in HH form that ends where the assistant is to speak; none of any other text."""
    if not (text.startswith(HUMAN) and text.rstrip().endswith(ASSISTANT)):
        return []
    parts = TURN.split(text)[1:]
    marks, said = parts[::2], parts[1::2]
    if any(first == second for first, second in pairwise(marks)):
        return []
    spoken = list(zip(marks, said, strict=True))[:-1]
    return [{"role": ROLES[mark], "content": _said(words)} for mark, words in spoken]


def _answers(texts: Sequence[Text], prompts: Sequence[Text]) -> Sequence[Text]:
    return stored(map(_answer, texts, prompts))


def _answer(text: Text, prompt: Text) -> Text:
    """As the assistant's message; an answer to a dialogue may go on with further turns, which are messages too."""
    if not isinstance(text, str):
        return text
    if not _asks_in_hh_form(prompt):
        return [{"role": "assistant", "content": text}]
    own, *later = TURN.split(text)
    turns = [(ASSISTANT, own), *zip(later[::2], later[1::2], strict=True)]
    return [{"role": ROLES[mark], "content": _said(words)} for mark, words in turns]


def _said(words: str) -> str:
    """Without the white space around it; a turn that is nothing else stays, because no message may be empty."""
    return words.strip() or words
