"""Rows of one completion and a label that says whether it is desirable, as KTO and BCO learn from.

Inside the library such a row is a pair of which one completion is absent: the completion stands as chosen and as
rejected in `Rows`, whose `present` says which of the two it is, and the absent one has no tokens in `Pairs`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from iwpo_fast.data.candidates import PairOfRow, RowOfPairs, responses_of
from iwpo_fast.data.chat import is_assistants
from iwpo_fast.data.columns import LABELS, REFERENCE, SCORES
from iwpo_fast.data.forms import HUMAN, as_messages, canonical, is_empty
from iwpo_fast.data.messages import with_messages
from iwpo_fast.data.row_files import Row
from iwpo_fast.data.rows import Message, Rows, first_single
from iwpo_fast.data.unread import strings_in

DESIRABLE = "desirable"
"""Where a row that has been recognised says which its completion is."""
SIDES = ("desirable", "undesirable")
"""What the completion of a row is called that stands as chosen, or as rejected."""
YES, NO = ("true", "1", "1.0", "desirable", "chosen"), ("false", "0", "0.0", "undesirable", "rejected")
WORDS = dict.fromkeys(YES, True) | dict.fromkeys(NO, False)
"""Labels as they are written; tables of numbers, and CSV from them, write 1.0 where another label is absent."""


def is_single(row: Mapping[str, Any], dialogue: list[Message] | None) -> bool:
    """Whether a row without chosen and rejected has one completion, in a column of its own or at a dialogue's end.

    Args:
        dialogue: the whole conversation that the row holds, or None.
    """
    if responses_of(row) is not None or row.get("ranked") is not None:
        return False
    ends_with_one = dialogue is not None and len(dialogue) > 1 and is_assistants(dialogue[-1])
    return row.get("completion") is not None or (ends_with_one and not row.keys().isdisjoint(LABELS))


def with_label(row: Row, used: str, dialogue: list[Message] | None) -> Row:
    """A single row with its completion as chosen and as rejected, and its label under `DESIRABLE`.

    Args:
        used: the column of the whole conversation.
        dialogue: as of `is_single`.

    Raises:
        ValueError: it has no label, one that says neither, or two that differ; or a prompt that the conversation does
            not say. The message goes on from "row 1".
    """
    desirable = _label(row)
    rest = {name: value for name, value in row.items() if name not in (*LABELS, "completion")}
    completion = row.get("completion")
    if completion is None:
        assert dialogue is not None
        _check_prompt(row, used, dialogue)
        completion = dialogue[-1:]
        rest |= {"prompt": dialogue[:-1]}
        del rest[used]
    _check_alone(row)
    return rest | {"chosen": completion, "rejected": completion, DESIRABLE: desirable}


def read_single(row: Row) -> RowOfPairs:
    """What a recognised row of one completion holds.

    Raises:
        ValueError: the completion is empty or of no known form, or follows no prompt. The message goes on from "row 1".
    """
    completion = with_messages({"completion": row["chosen"]}, ["completion"])["completion"]
    if not isinstance(completion, str | list):
        raise ValueError(
            f"has a completion of type {type(completion).__name__}: make it a string or a list of messages."
        )
    if isinstance(completion, list):
        as_messages(completion, "completion")
    is_text = isinstance(completion, str) and not completion.startswith(HUMAN)
    if completion and not row.get("prompt") and (is_text or len(completion) < 2):
        raise ValueError("has one completion and no prompt: add it, or name the column that holds it in data.columns.")
    prompt = with_messages(row, ["prompt"]).get("prompt")
    texts = canonical({"prompt": prompt, "chosen": completion, "rejected": completion}, may_be_empty=True)
    if is_empty(texts[1]):
        raise ValueError("has an empty completion: fill it in or remove the row.")
    return RowOfPairs([PairOfRow(texts, desirable=row[DESIRABLE])])


def refuse_unpaired(rows: Rows | None, who: str) -> None:
    """Raise ValueError if a row has one completion, which `who` cannot compare with another."""
    if rows is None or rows.present is None:
        return
    raise ValueError(
        f"{rows.where(first_single(rows.present))} has one completion and a label, and {who} compares two answers to "
        "a prompt: give rows with chosen and rejected, or train on these with iwpo train and the objective kto or bco."
    )


def _label(row: Mapping[str, Any]) -> bool:
    """True for a desirable completion."""
    meant = {name: _meaning(name, row[name]) for name in LABELS if row.get(name) is not None}
    if not meant:
        raise ValueError(
            "has one completion and no label: give it a label, true where the completion is desirable and false where "
            "it is not, or a second completion, as chosen and rejected."
        )
    if len(set(meant.values())) > 1:
        first, second, *_ = meant
        raise ValueError(
            f"has a {first} and a {second} that differ: leave one of them out, as in data.columns {{{second}: null}}."
        )
    return next(iter(meant.values()))


def _meaning(name: str, value: Any) -> bool:
    meant = WORDS.get(str(value).strip().lower())
    if meant is None:
        raise ValueError(
            f"has the {name} {reprlib.repr(value)} beside one completion: make it true where the completion is "
            "desirable, and false where it is not."
        )
    return meant


def _check_prompt(row: Row, used: str, dialogue: list[Message]) -> None:
    """Raise ValueError if a prompt would be lost beside a conversation, in the column `used`, that does not say it."""
    if set(strings_in(row.get("prompt"))) - {"", *strings_in(dialogue)}:
        raise ValueError(
            f"has a prompt that its {used} do not say: leave one of them out, as in data.columns {{prompt: null}}."
        )


def _check_alone(row: Row) -> None:
    of_pairs = [name for name in (*SCORES, *REFERENCE) if row.get(name) is not None]
    if of_pairs:
        raise ValueError(
            f"has one completion and a {of_pairs[0]}, which is of a pair: leave it out, as in data.columns "
            f"{{{of_pairs[0]}: null}}."
        )
