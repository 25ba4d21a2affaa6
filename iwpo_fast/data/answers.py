"""What an answer must be, so that something of it is trained and nothing of its prompt is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iwpo_fast.data.as_chat import has_later_turns
from iwpo_fast.data.candidates import RowOfPairs
from iwpo_fast.data.chat import is_assistants, opening_of
from iwpo_fast.data.left_out import NO_TEXTS, REASONING
from iwpo_fast.data.marks import holds_text
from iwpo_fast.data.rows import Message, Text
from iwpo_fast.terminal import escaped


def check_answers(row: RowOfPairs, train_on: str) -> None:
    """Raise ValueError for an answer without a turn of the assistant, or with what its prompt says otherwise.

    The message goes on from "row 1".
    """
    for (prompt, chosen, rejected), _, desirable in row.pairs:
        sides = {"chosen": [chosen], "rejected": [rejected]} if desirable is None else {"completion": [chosen]}
        named = sides | {"candidates": [text for text, _ in row.others or ()]}
        for name, answers in named.items():
            for answer in answers:
                if isinstance(prompt, list) and isinstance(answer, list):
                    check_answer(prompt, answer, name, train_on)


def go_on(row: RowOfPairs) -> bool:
    """Whether answers of a row hold further turns of the user, as where two dialogues part early."""
    return any(_has_later_turns(prompt, answer) for (prompt, *answers), *_ in row.pairs for answer in answers)


def _has_later_turns(prompt: Text, answer: Text) -> bool:
    if isinstance(answer, str):
        return has_later_turns(prompt, answer)
    return any(message["role"] == "user" for message in answer)


def check_answer(prompt: list[Message], answer: list[Message], name: str, train_on: str) -> None:
    """The same for one answer, of the column `name`."""
    if answer and train_on == "assistant" and not any(map(is_assistants, answer)):
        roles = escaped(", ".join(dict.fromkeys(message["role"] for message in answer)))
        raise ValueError(
            f"has an answer without a message of the assistant in {name}, whose roles are {roles}: call its role "
            "assistant, or set data.train_on to all."
        )
    if answer and opening_of(prompt, [answer]) == "continue":
        begun, first = _said(prompt[-1]), _said(answer[0])
        twice = [key for key, value in begun.items() if first.get(key, value) != value]
        if twice:
            raise ValueError(
                f"has {escaped(twice[0])} both in the turn of the assistant that its prompt begins and in {name}, "
                "which goes on in that turn: keep one of them."
            )


def _said(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a message says beside its content; the names of reasoning are one."""
    others = {key: value for key, value in message.items() if key not in ("content", *NO_TEXTS) and holds_text(value)}
    return {"reasoning" if key in REASONING else key: value for key, value in others.items()}
