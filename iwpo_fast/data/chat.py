"""Conversations as text, by a tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from iwpo_fast.data.bounded import TooMuch, bounded
from iwpo_fast.data.rows import Message, Rows, Text, contents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "Qq7Zmark"
"""Letters and digits that no template changes and no data hold, to see where a text comes out."""

ASSISTANTS = ("assistant", "model")

Conversation = list[Message]
Opening = Literal["ask", "continue", "none"]
"""How a prompt leads to its answers: by what the template writes to ask for one, by a turn of the assistant that the
answers continue, or, where an answer begins with somebody else's turn, by nothing."""


class ChatTemplate:
    """The chat template of a tokenizer, given the contents of messages in the form that it writes.

    Some templates write contents that are strings and print a list of parts as Python source, others write parts alone.
    Which it is, they are asked once.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: Rows) -> None:
        self.tokenizer = tokenizer
        self.contents: Literal["any", "strings", "parts"] = "any"
        # Of a plain conversation, so that the form is not another where rows come in another order.
        plain = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        self.contents = self._form_of(plain, rows.template[0] if rows.template else {})

    def render(self, conversation: Conversation, arguments: dict[str, Any], *, ask: bool = False) -> str:
        return self.render_all([conversation], arguments, ask=ask)[0]

    def render_all(
        self, conversations: Sequence[Conversation], arguments: dict[str, Any], *, ask: bool = False
    ) -> list[str]:
        """Args:
            arguments: what the template gets beside the messages, such as `tools`.
            ask: end with what asks for an answer.

        Raises:
            TooMuch: the template goes beyond the limits of time and memory, which are those of one conversation.
            Exception: it refuses a conversation, in whatever way.
        """
        given: Any = [self.in_form(conversation) for conversation in conversations]
        with bounded():
            rendered: Any = self.tokenizer.apply_chat_template(
                given, tokenize=False, **arguments, add_generation_prompt=ask
            )
        return rendered

    def in_form(self, conversation: Conversation) -> Conversation:
        """The conversation with contents in the form that the template writes."""
        if self.contents == "any":
            return conversation
        return [_as(self.contents, message) for message in conversation]

    def _form_of(self, conversation: Conversation, arguments: dict[str, Any]) -> Literal["any", "strings", "parts"]:
        marked = [m | {"content": f"{MARK}{i}."} for i, m in enumerate(conversation) if m.get("content")]
        wanted = [str(message["content"]) for message in marked]
        strings, parts = (self._written([_as(form, m) for m in marked], arguments) for form in ("strings", "parts"))
        if strings is not None and all(mark in strings for mark in wanted):
            return "any" if strings == parts else "strings"
        is_printed = parts is not None and "'type'" in parts  # a part as Python source is not what it says
        return "parts" if parts is not None and not is_printed and all(mark in parts for mark in wanted) else "any"

    def _written(self, conversation: Conversation, arguments: dict[str, Any]) -> str | None:
        try:
            return self.render(conversation, arguments)
        except TooMuch:
            raise
        except Exception:  # a template is a program, and may fail in any way
            return None


def opening_of(prompt: Conversation, answers: Sequence[Conversation]) -> Opening:
    """How this prompt leads to these answers."""
    if any(answer and not is_assistants(answer[0]) for answer in answers):
        return "none"
    unfinished = bool(prompt) and is_assistants(prompt[-1]) and not prompt[-1].get("tool_calls")
    return "continue" if unfinished and prompt[-1].get("content") else "ask"


def joined(prompt: Conversation, answer: Conversation, opening: Opening) -> Conversation:
    """Prompt and answer as one conversation; the answer to an unfinished turn of the assistant goes on in it."""
    if opening != "continue" or not answer:
        return [*prompt, *answer]
    begun, first = prompt[-1], answer[0]
    content = _joined_contents(begun["content"], first.get("content"))
    # What the answer leaves empty hides nothing that the prompt's turn has, such as its reasoning.
    said = {key: value for key, value in first.items() if key not in begun or value not in (None, "", [])}
    return [*prompt[:-1], {**begun, **said, "content": content}, *answer[1:]]


def is_assistants(message: Message) -> bool:
    return message["role"] in ASSISTANTS


def is_trained_turn(message: Message) -> bool:
    """Whether the message is the assistant's, and left in: `weight: 0` (OpenAI) and `train: false` (axolotl) do not."""
    return is_assistants(message) and message.get("weight") != 0 and message.get("train") is not False


def with_end_mark(message: Message) -> Message:
    """The message with `MARK` at the end of its content."""
    return message | {"content": _joined_contents(message.get("content"), MARK)}


def _joined_contents(first: Any, second: Any) -> Any:
    if isinstance(first, list) or isinstance(second, list):
        return [*_parts(first), *_parts(second)]
    return (first or "") + (second or "")


def _as(form: str, message: Message) -> Message:
    content = message.get("content")
    if form == "strings" and isinstance(content, list):
        return message | {"content": "".join(contents([message]))}
    if form == "parts" and isinstance(content, str):
        return message | {"content": _parts(content)}
    return message


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def messages_of(text: Text) -> Conversation:
    assert not isinstance(text, str)
    return text
