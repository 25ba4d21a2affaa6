"""Which part of a rendered conversation the assistant wrote."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from iwpo_fast.data.chat import MARK, ChatTemplate, Conversation, is_assistants, with_end_mark

GENERATION_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")

Spans = list[tuple[int, int]]
"""Characters from the first number to before the second."""


class UnknownTurns(ValueError):
    """The template does not show which part of a conversation the assistant wrote."""


def assistant_spans(chat: ChatTemplate, conversation: Conversation, first: int, arguments: dict[str, Any]) -> Spans:
    """The characters of the rendered conversation that are the assistant's, in messages `first` and later.

    Templates with `{% generation %}` mark them. Otherwise the conversation is rendered turn by turn: what the template
    writes up to a message, and to ask for it, is where that message begins.

    Raises:
        UnknownTurns: the template writes turns in another way when others follow.
    """
    whole = chat.render(conversation, arguments)
    if marked := _marked_spans(chat, conversation, whole, arguments):
        return marked
    spans = []
    for turn in range(first, len(conversation)):
        if is_assistants(conversation[turn]):
            start = _boundary(chat, conversation, whole, turn, arguments, ask=True)
            last = turn + 1 == len(conversation)
            end = len(whole) if last else _boundary(chat, conversation, whole, turn + 1, arguments, ask=False)
            spans.append((start, end))
    return spans


def inside(spans: Spans, offsets: list[tuple[int, int]]) -> np.ndarray:
    """bool [tokens], whether a span holds all characters of a token.

    Args:
        offsets: characters of every token. White space that a tokenizer leaves out between two is the later one's.
    """
    found = np.zeros(len(offsets), dtype=bool)
    before = 0
    for token, (start, end) in enumerate(offsets):
        start = min(start, before)
        found[token] = any(begin <= start and end <= stop for begin, stop in spans)
        before = max(before, end)
    return found


def _marked_spans(chat: ChatTemplate, conversation: Conversation, whole: str, arguments: dict[str, Any]) -> Spans:
    """The spans between generation marks; none where the template has no marks, or they do not tell."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = chat.tokenizer.get_chat_template(None, arguments.get("tools"))
    if not GENERATION_MARKS.search(template):
        return []
    # As `apply_chat_template` calls it, which gives tokens where these are characters.
    rendered, spans = render_jinja_template(
        conversations=[chat.in_form(conversation)],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **{**chat.tokenizer.special_tokens_map, **arguments},
    )
    return spans[0] if rendered[0] == whole else []


def _boundary(
    chat: ChatTemplate, conversation: Conversation, whole: str, turn: int, arguments: dict[str, Any], *, ask: bool
) -> int:
    """Up to which character `whole` is what the messages before `turn` alone would be.

    Templates may write earlier turns in another way once later ones follow, such as without their reasoning. Then only
    what comes behind the content of the message before `turn` is compared.

    Args:
        ask: with what asks for the assistant's answer.
    """
    before = conversation[:turn]
    alone = chat.render(before, arguments, ask=ask)
    if whole.startswith(alone):
        return len(alone)
    marked = [*before[:-1], with_end_mark(before[-1])]
    alone, within = chat.render(marked, arguments, ask=ask), chat.render([*marked, *conversation[turn:]], arguments)
    place = within.find(MARK)
    if within.replace(MARK, "", 1) != whole or MARK not in alone:
        raise UnknownTurns
    return place + common_beginning(alone.partition(MARK)[2], within[place + len(MARK) :])


def common_beginning(first: Any, second: Any) -> int:
    """Length of the longest common beginning of two sequences."""
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:
        return shorter
    return next(i for i in range(shorter) if first[i] != second[i])
