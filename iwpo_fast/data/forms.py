"""The forms that preference data come in, and their one canonical form: prompt, chosen and rejected completion."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from iwpo_fast.data.chat import is_assistants
from iwpo_fast.data.columns import LABELS
from iwpo_fast.data.rows import Message, Text, contents
from iwpo_fast.nearest import nearest
from iwpo_fast.terminal import escaped, is_text

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
FEWEST_WORDS = 3
ANSWERS_ALONE = ("response", "output", "answer", "generation", "text")
"""Names under which people keep the one answer of a row."""


class AnswerMissing(ValueError):
    """A row has no chosen, or no rejected."""

    def __init__(self, name: str) -> None:
        super().__init__(f"has no {name}: add it, or name the column that holds it in data.columns.")
        self._name = name

    def among(self, columns: Sequence[str]) -> ValueError:
        """The sentence with the columns that the row has, and the one that may be meant."""
        if self._name in columns:
            return ValueError(f"has no {self._name} although it has the column: fill it in, or remove the row.")
        label = next((name for name in LABELS if name in columns), None)
        if label is not None and "completion" not in columns:
            answer = next((name for name in ANSWERS_ALONE if name in columns), "COLUMN")
            return ValueError(
                f"has a {label} and neither a completion that it is about nor chosen and rejected: name the column of "
                f"the answer, as in --data.columns '{{completion: {answer}}}': its columns are "
                f"{escaped(', '.join(columns))}."
            )
        meant = nearest(self._name, columns)
        form = f"{{{self._name}: {meant}}}" if meant else "{chosen: COLUMN, rejected: COLUMN}"
        return ValueError(
            f"{str(self).removesuffix('.')}, {'perhaps' if meant else 'as in'} --data.columns '{form}': its columns "
            f"are {escaped(', '.join(columns))}. Where a column says which of two answers is the better, the three are "
            "first, second and preferred."
        )


class PrefixMismatch(ValueError):
    """The completions of a row do not follow one prompt."""


def repeats_prompt(row: Mapping[str, Any]) -> bool:
    """Whether both completions of a row begin with its prompt, so that they hold it already.

    A prompt of less than three words does not count, because both answers to "Hello" may begin with it by themselves.
    """
    return all_repeat(row.get("prompt"), [row.get(name) for name in ("chosen", "rejected")])


def all_repeat(prompt: Any, completions: Sequence[Any]) -> bool:
    """Whether all completions begin with the prompt, as of `repeats_prompt`."""
    if isinstance(prompt, str) and len(prompt.split()) < FEWEST_WORDS:
        return False
    return all(_repeated(prompt, completion) is not None for completion in completions)


def without_prompt(prompt: Any, completion: Any) -> Any:
    """The completion, without the prompt that it begins with if it does."""
    length = _repeated(prompt, completion)
    if length is None:
        return completion
    rest = completion[length:]
    return rest.lstrip() if isinstance(prompt, list) and isinstance(rest, str) else rest


def canonical(row: Mapping[str, Any], *, may_be_empty: bool = False) -> tuple[Text, Text, Text]:
    """Prompt and completions of a row, by the form that its values have, whatever other rows have.

    Args:
        may_be_empty: take empty completions too, which can be scored but not learnt from.

    | prompt   | chosen, rejected            | becomes                                                        |
    |----------|-----------------------------|----------------------------------------------------------------|
    | string   | strings                     | itself                                                         |
    | messages | messages                    | itself                                                         |
    | any      | both begin with the prompt  | the same without it in front of the completions                |
    | none     | strings                     | longest common prefix, not cut inside a word                   |
    | none     | HH dialogues                | prompt up to and with the last assistant mark that both have   |
    | none     | messages                    | longest common beginning                                       |
    | string   | messages with the prompt    | the same; the string must be one of the common messages        |
    | string   | messages without the prompt | prompt as the user's message                                   |
    | messages | strings                     | completions as the assistant's messages                        |

    Raises:
        PrefixMismatch: chosen and rejected do not continue the same prompt.
        ValueError: a value is absent, empty, or of no form above. The message goes on from "row 1".
    """
    prompt = row.get("prompt")
    chosen, rejected = _completion(row, "chosen"), _completion(row, "rejected")
    if _hold_more_than(prompt, (chosen, rejected)):
        prompt = None  # the answers are whole conversations, and begin with more than the prompt
    elif repeats_prompt(row) or _shows_repetition(prompt, (chosen, rejected)):
        chosen, rejected = (without_prompt(prompt, side) for side in (chosen, rejected))
    if isinstance(chosen, str) and isinstance(rejected, str):
        parts = _from_strings(prompt, chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        parts = _from_messages(prompt, chosen, rejected)
    else:
        raise ValueError(
            "has a string and a list of messages as its completions: make chosen and rejected both the same."
        )
    for name, completion in zip(("chosen", "rejected"), parts[1:], strict=True):
        if not may_be_empty and is_empty(completion):
            raise ValueError(f"has an empty completion in {name}: fill it in or remove the row.")
    check_encodable(parts)
    return parts


def as_written(row: Mapping[str, Any]) -> tuple[Text, Text, Text]:
    """Prompt and completions of a row that `canonical` made, as they stand.

    Made canonical once more, a row could become another: an answer that says the prompt twice would lose it twice.

    Raises:
        ValueError: as of `canonical`; an empty completion is none.
    """
    chosen, rejected = _completion(row, "chosen"), _completion(row, "rejected")
    parts: tuple[Text, Text, Text] = (row.get("prompt") or type(chosen)(), chosen, rejected)
    if len(set(map(type, parts))) > 1:
        raise ValueError("has text and messages: make prompt, chosen and rejected the same.")
    for name, part in zip(("prompt", "chosen", "rejected"), parts, strict=True):
        if isinstance(part, list):
            as_messages(part, name)
    check_encodable(parts)
    return parts


def split_strings(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Cut off the longest common prefix that ends between words and leaves something of both completions.

    A space before the first different word goes to the completions, as tokenizers attach it to the word.
    """
    cut = min(_common_beginning(chosen, rejected), max(0, min(len(chosen), len(rejected)) - 1))
    while cut and _in_word(chosen[cut - 1]) and (_in_word(chosen[cut]) or _in_word(rejected[cut])):
        cut -= 1
    if cut and chosen[cut - 1] == " ":
        cut -= 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def split_dialogues(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Cut two dialogues in Anthropic's HH form after the last assistant mark before they part."""
    mark = chosen.rfind(ASSISTANT, 0, _common_beginning(chosen, rejected))
    if mark < 0:
        raise PrefixMismatch("has dialogues that differ before their first assistant turn")
    cut = mark + len(ASSISTANT)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def split_messages(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], ...]:
    """Cut off the longest common beginning that leaves a message of both completions."""
    shortest = min(len(chosen), len(rejected))
    cut = next((i for i in range(shortest) if chosen[i] != rejected[i]), max(0, shortest - 1))
    if cut == 0:
        raise PrefixMismatch("has conversations without a common beginning")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _from_strings(prompt: Any, chosen: str, rejected: str) -> tuple[Text, Text, Text]:
    if isinstance(prompt, str):
        return prompt, chosen, rejected
    if isinstance(prompt, list):
        answers = [[{"role": "assistant", "content": text}] if text else [] for text in (chosen, rejected)]
        return as_messages(prompt, "prompt"), answers[0], answers[1]
    _must_be_text_or_absent(prompt)
    if all(text.startswith(HUMAN) and ASSISTANT in text for text in (chosen, rejected)):
        return split_dialogues(chosen, rejected)
    return split_strings(chosen, rejected)


def _from_messages(prompt: Any, chosen: list[Any], rejected: list[Any]) -> tuple[Text, Text, Text]:
    chosen, rejected = as_messages(chosen, "chosen"), as_messages(rejected, "rejected")
    if isinstance(prompt, list):
        return as_messages(prompt, "prompt"), chosen, rejected
    _must_be_text_or_absent(prompt)
    if not chosen or not rejected:
        return [], chosen, rejected
    if isinstance(prompt, str) and all(is_assistants(messages[0]) for messages in (chosen, rejected)):
        return [{"role": "user", "content": prompt}], chosen, rejected
    before, after_chosen, after_rejected = split_messages(chosen, rejected)
    if isinstance(prompt, str) and prompt.strip() not in (content.strip() for content in contents(before)):
        raise PrefixMismatch("has a prompt that does not begin its conversations")
    return before, after_chosen, after_rejected


def _completion(row: Mapping[str, Any], name: str) -> Text:
    value = row.get(name)
    if value is None:
        raise AnswerMissing(name)
    if not isinstance(value, str | list):
        raise ValueError(f"has a {name} of type {type(value).__name__}: make it a string or a list of messages.")
    return value


def as_messages(messages: list[Any], name: str) -> list[Message]:
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"has a message without a role in {name}: each message needs a role and a content.")
        if not _is_named(message):
            raise ValueError(f"has a message in {name} whose keys are no text: write them as text.")
        if not _is_content(message.get("content")):
            raise ValueError(
                f"has a message in {name} whose content is neither a string nor a list of parts: make it a string, or "
                'parts such as {"type": "text", "text": "..."}.'
            )
    return messages


def _is_named(value: dict[Any, Any]) -> bool:
    """Whether all keys are text, which those of Python source need not be."""
    return all(isinstance(key, str) for key in value)


def _is_content(content: Any) -> bool:
    if isinstance(content, list):
        return all(isinstance(part, dict) and _is_part(part) for part in content)
    return isinstance(content, str | None)


def _is_part(part: dict[Any, Any]) -> bool:
    return _is_named(part) and isinstance(part.get("text"), str | None)


def _repeated(prompt: Any, completion: Any) -> int | None:
    """How much of the completion, characters or messages, is the prompt; None where it does not begin with it.

    White space at the end of a text does not count, nor what messages have beside role and content, nor a system
    message that the completion lacks. A text repeats a conversation if it begins with its last message.
    """
    if not prompt or not isinstance(prompt, str | list):
        return None
    if isinstance(completion, str):
        text = prompt if isinstance(prompt, str) else _last_content(prompt)
        beginning = text if completion.startswith(text) else text.rstrip()
        return len(beginning) if beginning and completion.startswith(beginning) else None
    if not isinstance(prompt, list) or not isinstance(completion, list):
        return None
    asked = [_spoken(turn) for turn in prompt]
    while asked:
        if asked == [_spoken(turn) for turn in completion[: len(asked)]]:
            return len(asked)
        if not (isinstance(asked[0], tuple) and asked[0][0] == "system"):
            break
        del asked[0]
    return None


def _hold_more_than(prompt: Any, completions: Sequence[Text]) -> bool:
    """Whether all completions are conversations that repeat the prompt behind a system message that it lacks."""
    if not isinstance(prompt, list) or not prompt or _role(prompt[0]) == "system":
        return False
    return all(
        isinstance(completion, list)
        and bool(completion)
        and _role(completion[0]) == "system"
        and _repeated(prompt, completion[1:]) is not None
        for completion in completions
    )


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _shows_repetition(prompt: Any, completions: Sequence[Text]) -> bool:
    """Whether one completion alone can be seen to repeat the prompt, because no answer begins as it does by itself."""
    if isinstance(prompt, str):
        return prompt.startswith(HUMAN) and prompt.rstrip().endswith(ASSISTANT)
    return isinstance(prompt, list) and all(isinstance(completion, list) for completion in completions)


def _last_content(messages: list[Any]) -> str:
    """The content of the last message, if it is a text that no answer begins with by itself."""
    content = messages[-1].get("content") if isinstance(messages[-1], dict) else None
    return content if isinstance(content, str) and len(content.split()) >= FEWEST_WORDS else ""


def _spoken(turn: Any) -> Any:
    """What a message says, whatever the form of its content and the white space at its end."""
    if not isinstance(turn, dict) or turn.get("tool_calls") or not _is_content(turn.get("content")):
        return turn
    return turn.get("role"), "".join(contents([turn])).rstrip()


def _must_be_text_or_absent(prompt: Any) -> None:
    if not isinstance(prompt, str | None):
        raise ValueError(f"has a prompt of type {type(prompt).__name__}: make it a string or a list of messages.")


def is_empty(completion: Text) -> bool:
    if isinstance(completion, str):
        return not completion
    return not any(message.get("content") or message.get("tool_calls") for message in completion)


def check_encodable(parts: Any) -> None:
    """Raise ValueError if any text in these is no text, whatever stands for it: contents, roles, names, tool calls."""
    if not is_text(parts):
        raise ValueError("has half a surrogate pair, which is no character: remove it.")


def _common_beginning(first: str, second: str) -> int:
    """Length of the longest common beginning."""
    shortest = min(len(first), len(second))
    return bisect_left(range(1, shortest + 1), True, key=lambda n: first[:n] != second[:n])


def _in_word(character: str) -> bool:
    """Letters, digits, accents and apostrophes."""
    return character.isalnum() or character in "_'’" or unicodedata.category(character).startswith("M")
