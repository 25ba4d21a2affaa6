"""Rows as the texts that are tokenised: each prompt, and prompt + completion of each side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from iwpo_fast.data.bounded import TooMuch, limits
from iwpo_fast.data.chat import (
    MARK,
    ChatTemplate,
    Conversation,
    Opening,
    joined,
    messages_of,
    opening_of,
    with_end_mark,
)
from iwpo_fast.data.ends import special_ends
from iwpo_fast.data.row_files import first_line
from iwpo_fast.data.rows import Rows, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Renderer:
    """Renders rows and the completions of their sides, such as chosen and rejected.

    Args:
        sides: completions of all rows.
        add_eos: end each plain-text completion with the end-of-sequence token, unless it has an end already.

    Raises:
        ValueError: there is no token to end with.
    """

    def __init__(
        self, rows: Rows, sides: Sequence[Sequence[Text]], tokenizer: PreTrainedTokenizerBase, *, add_eos: bool
    ) -> None:
        self.rows, self.sides = rows, sides
        self.chat = ChatTemplate(tokenizer, rows) if rows.conversational else None
        self.end = _end(tokenizer) if add_eos and not self.chat else ""
        self.ends = special_ends(tokenizer) if self.end else ()
        self.last_characters = {end[-1] for end in self.ends}

    def __call__(self, some: Sequence[int]) -> list[str]:
        """The prompts of the given rows, then prompts + completions, side after side.

        Raises:
            ValueError: a conversation does not fit the template.
        """
        if self.chat:
            return self._conversations(self.chat, some)
        prompt: Any = self.rows.prompt
        wholes = [prompt[row] + self._ended(side[row]) for side in self.sides for row in some]
        return [*(prompt[row] for row in some), *wholes]

    def opening(self, row: int) -> Opening:
        answers = [messages_of(side[row]) for side in self.sides]
        return opening_of(messages_of(self.rows.prompt[row]), answers)

    def conversation(self, row: int, side: int) -> Conversation:
        """Prompt and one completion of a row."""
        answer = messages_of(self.sides[side][row])
        return joined(messages_of(self.rows.prompt[row]), answer, self.opening(row))

    def arguments(self, row: int) -> dict[str, Any]:
        """What a row gives its chat template beside the messages."""
        return self.rows.template[row] if self.rows.template else {}

    def _ended(self, completion: Any) -> str:
        if not self.end:
            return completion
        text = completion.rstrip()
        return completion if text[-1:] in self.last_characters and text.endswith(self.ends) else completion + self.end

    def _conversations(self, chat: ChatTemplate, some: Sequence[int]) -> list[str]:
        parts: list[list[str]] = [[] for _ in range(len(self.sides) + 1)]
        # One call renders the rows that give the template the same tools and keywords; mostly that is all of them.
        for (_, opening), group in groupby(some, key=self._group):
            members = list(group)
            prompts = [messages_of(self.rows.prompt[row]) for row in members]
            parts[0] += self._prompts(chat, prompts, opening, members)
            for part, side in zip(parts[1:], self.sides, strict=True):
                answers = [messages_of(side[row]) for row in members]
                whole = [joined(prompt, answer, opening) for prompt, answer in zip(prompts, answers, strict=True)]
                part += self._apply(chat, whole, members)
        return [text for part in parts for text in part]

    def _group(self, row: int) -> tuple[str, Opening]:
        return json.dumps(self.arguments(row), default=str), self.opening(row)

    def _prompts(
        self, chat: ChatTemplate, prompts: list[Conversation], opening: Opening, members: list[int]
    ) -> list[str]:
        if opening != "continue":
            return self._apply(chat, prompts, members, ask=opening == "ask")
        marked = [[*prompt[:-1], with_end_mark(prompt[-1])] for prompt in prompts]
        return [text.partition(MARK)[0] for text in self._apply(chat, marked, members)]

    def _apply(
        self, chat: ChatTemplate, conversations: list[Conversation], members: list[int], *, ask: bool = False
    ) -> list[str]:
        """Render; if the template refuses, or takes more than it may for one row, find out which row it is."""
        try:
            return chat.render_all(conversations, self.arguments(members[0]), ask=ask)
        except TooMuch as error:
            if len(members) == 1:
                raise ValueError(
                    f"{self.rows.where(members[0])} takes the chat template {limits()}: correct its messages, or set "
                    "data.chat_template."
                ) from error
        except Exception as error:  # a template is a program, and may fail in any way
            if len(members) == 1:
                raise ValueError(
                    f"{self.rows.where(members[0])} does not fit the chat template "
                    f"({first_line(error)}): correct its messages, or set data.chat_template."
                ) from error
        alone = (self._apply(chat, [one], [row], ask=ask) for row, one in zip(members, conversations, strict=True))
        return [text for texts in alone for text in texts]


def _end(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.eos_token is None:
        raise ValueError("The tokenizer has no end-of-sequence token: set data.add_eos to false, or give it one.")
    return tokenizer.eos_token
