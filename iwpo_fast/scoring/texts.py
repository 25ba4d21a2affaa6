"""The completions in the rows of a file, laid out as rows of a pair each, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from iwpo_fast.data.forms import PrefixMismatch, canonical
from iwpo_fast.data.messages import with_messages
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.data.read import mismatch_error, template_arguments
from iwpo_fast.data.recognise import dialogue_of, in_our_form, is_answer, put_before, with_joined
from iwpo_fast.data.records import Records
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.rewards.blocks import Ints
from iwpo_fast.rewards.text_rows import SILENCE, one_completion

PAIRS = (("chosen", "rejected"), ("first", "second"))
LISTS = ("candidates", "ranked")
SIDES = (*PAIRS[0], *PAIRS[1], "completion")
COLUMNS = (
    *("prompt", *SIDES, *LISTS, "messages", "conversations", "system", "history"),
    *("tools", "chat_template_kwargs"),
)

Completions = dict[str, list[Text]]
"""Completions of a row by the column that they stand in; `messages` is a conversation that ends in its completion."""


class Texts(NamedTuple):
    """Completions of R rows of a file.

    Attributes:
        rows: two completions of a row of the file each; the last of an odd number stands twice.
        of: int64 [N], row of the file, counted from 0, that each of them is of.
        columns: for every row of the file, the number of completions in each column; none where it cannot be scored.
    """

    rows: Rows
    of: Ints
    columns: list[dict[str, int]]

    def of_file(self, values: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Values [N, 2] of the completions, by row of the file and column."""
        flat, found, start = values.reshape(-1), [], 0
        for counts in self.columns:
            place, of_row = start, {}
            for name, count in counts.items():
                of_row[name] = flat[place : place + count]
                place += count
            found.append(of_row)
            start += 2 * _slots(sum(counts.values()))
        return found


def texts_of(
    records: Records, numbering: Numbering, on_prefix_mismatch: str, joined: Mapping[str, list[str]] | None = None
) -> Texts:
    """Lay out the completions of a file, whose columns have our names.

    Args:
        joined: columns that are joined of others, as of `joined_columns`.

    Raises:
        ValueError: a row has no completion, or one of no form that the library knows; the sentence names it.
    """
    records = {number: _in_our_form(number, record, numbering, joined or {}) for number, record in records.items()}
    found = [_checked(row, numbering, on_prefix_mismatch) for row in records.items()]
    numbers = np.array(list(records), dtype=np.int64)
    _check_alike(found, numbers, numbering)
    of = np.repeat(np.arange(len(found)), [_slots(_count(columns)) for _, columns in found])
    sides = [_sides(columns) for _, columns in found]
    template = [template_arguments(record) for record in records.values()]
    rows = Rows(
        numbering.title,
        numbers[of],
        prompt=[found[row][0] for row in of],
        chosen=[text for chosen, _ in sides for text in chosen],
        rejected=[text for _, rejected in sides for text in rejected],
        template=[template[row] for row in of] if any(template) else None,
        files=numbering.files,
    )
    return Texts(rows, of, [{name: len(texts) for name, texts in columns.items()} for _, columns in found])


def completions_of(record: Mapping[str, Any]) -> tuple[Text, Completions]:
    """The prompt of a row and all its completions, by column.

    Raises:
        PrefixMismatch: they do not continue the same prompt.
        ValueError: there are none, or they are of no form that the library knows. The message goes on from "row 1".
    """
    prompt, found = _prompt_of(record), Completions()
    pair = next((names for names in PAIRS if any(name in record for name in names)), ())
    if pair:
        answers = dict(zip(PAIRS[0], (record.get(name) for name in pair), strict=True))
        prompt, *both = canonical({"prompt": prompt} | answers, may_be_empty=True)
        silent = "" if isinstance(prompt, str) else SILENCE
        found |= {name: [text or silent] for name, text in zip(pair, both, strict=True)}
    given = {"completion": [record["completion"]]} if "completion" in record else {}
    given |= {name: _several(record[name], name) for name in LISTS if name in record}
    if not found and not given and (dialogue := dialogue_of(dict(record))[1]) is not None:
        given, prompt = {"messages": [dialogue]}, None
    for name, texts in given.items():
        each = [one_completion(prompt, text) for text in texts]
        if any(other != each[0][0] for other, _ in each):
            raise ValueError(f"has texts and conversations in {name}: make all alike.")
        prompt, found[name] = each[0][0], [text for _, text in each]
    if not found:
        raise ValueError(
            "has neither chosen and rejected, nor first and second, completion, messages, candidates or ranked: add "
            "one of them."
        )
    assert prompt is not None
    return _behind_earlier(record, prompt, found)


def _prompt_of(record: Mapping[str, Any]) -> Text | None:
    """The prompt, or the conversation that stands for it where the completions are answers alone."""
    prompt: Text | None = record.get("prompt")
    given = [record[name] for name in SIDES if name in record]
    if prompt or not given or not all(map(is_answer, given)):
        return prompt
    return dialogue_of(dict(record))[1] or prompt


def _behind_earlier(record: Mapping[str, Any], prompt: Text, found: Completions) -> tuple[Text, Completions]:
    """With the text of the system and earlier turns in front of the prompt, which becomes a conversation."""
    row = {name: record[name] for name in ("system", "history") if record.get(name)}
    if not row:
        return prompt, found
    if isinstance(prompt, list) or "prompt" in record:
        row["prompt"] = prompt
    put_before(row)
    if isinstance(prompt, list):
        return row["prompt"], found
    return row["prompt"], {
        name: [[{"role": "assistant", "content": text}] for text in texts] for name, texts in found.items()
    }


def _in_our_form(
    number: int, record: Mapping[str, Any], numbering: Numbering, joined: Mapping[str, list[str]]
) -> dict[str, Any]:
    try:
        row = in_our_form(with_joined(record, joined), ("prompt", *SIDES))
        return with_messages(row, ("prompt", *SIDES, "messages"))
    except ValueError as error:
        raise ValueError(f"{numbering.where(number)} {error}") from None


def _checked(
    row: tuple[int, Mapping[str, Any]], numbering: Numbering, on_prefix_mismatch: str
) -> tuple[Text, Completions]:
    """`completions_of`, where errors name the row; no completions where a mismatch is allowed for."""
    number, record = row
    try:
        return completions_of(record)
    except PrefixMismatch as mismatch:
        if on_prefix_mismatch != "drop":
            raise mismatch_error(str(mismatch), numbering.where(number), 1) from None
        return "", {}
    except ValueError as error:
        raise ValueError(f"{numbering.where(number)} {error}") from None


def _check_alike(found: list[tuple[Text, Completions]], numbers: Ints, numbering: Numbering) -> None:
    """Raise ValueError unless all rows with completions are plain text, or all are conversations."""
    plain = {
        int(number): isinstance(prompt, str) for number, (prompt, given) in zip(numbers, found, strict=True) if given
    }
    first = next(iter(plain.values()), True)
    for number, is_plain in plain.items():
        if is_plain != first:
            raise ValueError(
                f"{numbering.where(number)} mixes conversations and plain text with the rows before it: make all alike."
            )


def _sides(columns: Completions) -> tuple[list[Text], list[Text]]:
    """All completions of a row, two by two; the last of an odd number is on both sides."""
    texts = [text for column in columns.values() for text in column]
    return texts[::2], texts[1::2] + texts[-1:] * (len(texts) % 2)


def _count(columns: Completions) -> int:
    return sum(map(len, columns.values()))


def _several(texts: Any, name: str) -> list[Text]:
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"has no list of texts as its {name}: give at least one, or remove the row.")
    return texts


def _slots(completions: int) -> int:
    """Rows of two that hold so many completions."""
    return (completions + 1) // 2
