"""Which part of a rendered conversation the assistant wrote."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

from iwpo_fast.data.bounded import bounded
from iwpo_fast.data.chat import MARK, ChatTemplate, Conversation, is_assistants, is_trained_turn, with_end_mark
from iwpo_fast.data.rows import Message

GENERATION_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")

Spans = list[tuple[int, int]]
"""Characters from the first number to before the second."""


class UnknownTurns(ValueError):
    """The template does not show which part of a conversation the assistant wrote."""


def assistant_spans(chat: ChatTemplate, conversation: Conversation, first: int, arguments: dict[str, Any]) -> Spans:
    """The characters of the rendered conversation that are the assistant's, in messages `first` and later.

    The conversation is rendered turn by turn: what the template writes up to a message, and to ask for it, is where
    that message begins. Where the template has `{% generation %}` marks, the characters are between marks as well; some
    mark what asks for the answer too.

    Raises:
        UnknownTurns: the template has no marks, and writes turns in another way when others follow.
    """
    whole = chat.render(conversation, arguments)
    marked = _marked_spans(chat, conversation, whole, arguments)
    try:
        turns = _turns(chat, conversation, whole, first, arguments)
    except UnknownTurns:
        if not marked or not all(map(_says_nothing_of_training, conversation[first:])):
            raise
        return marked
    return _in_both(turns, marked) if marked else turns


def has_marks(chat: ChatTemplate, arguments: dict[str, Any]) -> bool:
    """Whether the template has `{% generation %}` marks."""
    return _is_marked(chat.tokenizer.get_chat_template(None, arguments.get("tools")))


@functools.cache  # asked for every answer
def _is_marked(template: str) -> bool:
    return bool(GENERATION_MARKS.search(template))


def _turns(chat: ChatTemplate, conversation: Conversation, whole: str, first: int, arguments: dict[str, Any]) -> Spans:
    spans = []
    for turn in range(first, len(conversation)):
        if is_trained_turn(conversation[turn]):
            start = _boundary(chat, conversation, whole, turn, arguments, ask=True)
            last = turn + 1 == len(conversation)
            end = len(whole) if last else _boundary(chat, conversation, whole, turn + 1, arguments, ask=False)
            spans.append((start, end))
    return spans


def _says_nothing_of_training(message: Message) -> bool:
    return is_trained_turn(message) or not is_assistants(message)


def _in_both(first: Spans, second: Spans) -> Spans:
    both = [(max(a, c), min(b, d)) for a, b in first for c, d in second]
    return [(start, end) for start, end in both if start < end]


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

    if not has_marks(chat, arguments):
        return []
    template = chat.tokenizer.get_chat_template(None, arguments.get("tools"))
    # As `apply_chat_template` calls it, which gives tokens where these are characters.
    with bounded():
        found: Any = render_jinja_template(
            conversations=[chat.in_form(conversation)],
            chat_template=template,
            return_assistant_tokens_mask=True,
            **{**chat.tokenizer.special_tokens_map, **arguments},
        )
    (rendered,), (spans,) = found
    return spans if rendered == whole else []


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
    within = chat.render([*marked, *conversation[turn:]], arguments)
    asked, unasked = (_behind_mark(chat.render(marked, arguments, ask=one)) for one in (ask, False))
    behind = _behind_mark(within)
    if within.replace(MARK, "", 1) != whole:
        raise UnknownTurns
    place = within.find(MARK)
    return place + (_asked_until(asked, unasked, behind) if ask else _ended_until(unasked, behind))


def _behind_mark(text: str) -> str:
    _, mark, behind = text.partition(MARK)
    if not mark:
        raise UnknownTurns
    return behind


def _asked_until(asked: str, unasked: str, behind: str) -> int:
    """How many characters behind the content of a message end it and ask for the answer.

    Args:
        asked: what the template writes behind a last message, with what asks for an answer.
        unasked: the same without that.
        behind: what it writes behind this one, which is answered.
    """
    if behind.startswith((asked, unasked)):
        return common_beginning(asked, behind)
    asking = asked.removeprefix(unasked)
    if not asking or asking == asked or asking not in behind:
        raise UnknownTurns
    return behind.index(asking) + len(asking)


def _ended_until(ended: str, behind: str) -> int:
    """How many characters behind the content of a message end it, of what the template writes `behind` it.

    Where one writes <|return|> behind a last message and <|end|> behind others, their common beginning < is nobody's.
    """
    same = behind[: common_beginning(ended, behind)]
    return len(same if same in (ended, behind) else same.rstrip("<|[｜"))


def common_beginning(first: Any, second: Any) -> int:
    """Length of the longest common beginning of two sequences."""
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:
        return shorter
    return next(i for i in range(shorter) if first[i] != second[i])
