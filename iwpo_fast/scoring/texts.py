"""The completions in the rows of a file, read as training reads them, laid out as rows of a pair each, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from iwpo_fast.command_config import ScoredDataConfig
from iwpo_fast.data.answers import check_answer
from iwpo_fast.data.as_chat import of_one_kind
from iwpo_fast.data.candidates import FORMS, answers_alone, answers_beside, responses_of
from iwpo_fast.data.columns import TEXTS, TURNS, column_names, joined_columns, split_columns
from iwpo_fast.data.forms import PrefixMismatch, canonical
from iwpo_fast.data.json_text import JsonText, decided
from iwpo_fast.data.ledger import reading_lines
from iwpo_fast.data.messages import with_messages
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.data.read import mismatch_error, template_arguments
from iwpo_fast.data.recognise import Recogniser, dialogue_of, with_joined
from iwpo_fast.data.records import Records
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.rewards.blocks import Ints
from iwpo_fast.rewards.text_rows import SILENCE

PAIRS = (("chosen", "rejected"), ("first", "second"))
LISTS = ("candidates", "ranked", *FORMS)
COLUMNS = (
    *("prompt", *PAIRS[0], *PAIRS[1], "completion", "candidates", "ranked", *TURNS),
    *("tools", "chat_template_kwargs", "prompt_id", "preferred"),
)

Completions = dict[str, list[Text]]
"""Completions of a row by the column that they stand in; `messages` is a conversation that ends in its completion."""


class Texts(NamedTuple):
    """Completions of R rows of a file.

    Attributes:
        rows: two completions of a row of the file each; the last of an odd number stands twice.
        of: int64 [N], row of the file, counted from 0, that each of them is of.
        columns: for every row of the file, the number of completions in each column; none where it cannot be scored.
        lines: what reading left out, for people.
    """

    rows: Rows
    of: Ints
    columns: list[dict[str, int]]
    lines: list[str]

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


def texts_of(records: Records, numbering: Numbering, data: ScoredDataConfig) -> Texts:
    """Lay out the completions of a file.

    Raises:
        ValueError: a row has no completion, or one of no form that the library knows; the sentence names it.
    """
    return decided(data.json_columns, lambda json_text: _laid_out(records, numbering, data, json_text))


def _laid_out(records: Records, numbering: Numbering, data: ScoredDataConfig, json_text: JsonText) -> Texts:
    reader = _RowReader(data, json_text)
    found = [_checked(reader, row, numbering, data.on_prefix_mismatch) for row in records.items()]
    numbers = np.array(list(records), dtype=np.int64)
    of = np.repeat(np.arange(len(found)), [_slots(_count(row.completions)) for row in found])
    sides = [_sides(row.completions) for row in found]
    template = [row.arguments for row in found]
    rows = Rows(
        numbering.title,
        numbers[of],
        prompt=[found[row].prompt for row in of],
        chosen=[text for chosen, _ in sides for text in chosen],
        rejected=[text for _, rejected in sides for text in rejected],
        template=[template[row] for row in of] if any(template) else None,
        files=numbering.files,
    )
    columns = [{name: len(texts) for name, texts in row.completions.items()} for row in found]
    rows = of_one_kind(rows, data.as_chat) if len(rows) else rows
    return Texts(rows, of, columns, reading_lines(reader.recognise.unread, json_text.counts))


class _Row(NamedTuple):
    """A prompt, all its completions, and what its chat template is given."""

    prompt: Text = ""
    completions: Completions = {}  # noqa: RUF012
    arguments: dict[str, Any] = {}  # noqa: RUF012


class _RowReader:
    """Reads rows as training does, except that nothing must say which completion is better.

    A completion by itself is read as a pair of it and itself, and so is a conversation that ends in one.
    """

    def __init__(self, data: ScoredDataConfig, json_text: JsonText) -> None:
        self.recognise = Recogniser(data.columns, {}, json_text)
        self._split = split_columns(column_names(data.columns, COLUMNS))
        self._joined = joined_columns(data.columns)

    def __call__(self, row: Mapping[str, Any]) -> _Row:
        """Raises:
        PrefixMismatch: the completions do not continue the same prompt.
        ValueError: there are none, or they are of no form that the library knows. The message goes on from "row 1".
        """
        given, others = self._split(dict(row))
        given = {name: value for name, value in given.items() if value is not None}
        record = with_joined(self.recognise.json(given), others, self._joined)
        listed = next((name for name in ("candidates", "ranked") if name in record), None)
        names, record = _with_pair(record)
        if listed is not None and (not isinstance(record[listed], list) or not record[listed]):
            raise ValueError(f"has no list of texts as its {listed}: give at least one, or remove the row.")
        record = with_messages(self.recognise.in_columns(record, others), TEXTS)
        prompt, completions = _completions_of(record, names, listed)
        for name, texts in completions.items():
            for text in texts:
                if isinstance(prompt, list) and isinstance(text, list):
                    check_answer(prompt, text, name, "assistant")
        return _Row(prompt, completions, template_arguments(record))


def _with_pair(record: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The columns of what is scored beside candidates, and the row with it as `chosen` and `rejected`."""
    row = {name: value for name, value in record.items() if name != "preferred"}
    pair = next((names for names in PAIRS if any(name in row for name in names)), None)
    if pair is not None:
        return pair, row | {name: row.pop(theirs) for name, theirs in zip(PAIRS[0], pair, strict=True) if theirs in row}
    if "completion" in row:
        given = row.pop("completion")
        if isinstance(given, str) and not any(row.get(name) for name in ("prompt", "conversations", "messages")):
            raise ValueError("has no prompt: add it, or name the column that holds it in data.columns.")
        given = SILENCE if given == [] else given
        return ("completion",), row | {"chosen": given, "rejected": given}
    if "ranked" in row or responses_of(row) is not None:
        return (), row
    used, dialogue = dialogue_of(row)
    if dialogue is None:
        raise ValueError(
            "has neither chosen and rejected, nor first and second, completion, messages, candidates or ranked: add "
            "one of them."
        )
    del row[used]
    return ("messages",), row | {"chosen": dialogue, "rejected": dialogue}


def _completions_of(record: dict[str, Any], names: tuple[str, ...], listed: str | None) -> tuple[Text, Completions]:
    """The prompt of a row in our columns and all its completions, by column."""
    form, values = responses_of(record) or ("", [])
    if any(value is None for value in values):
        raise ValueError(f"has no completion as one of its {listed or form}: fill it in or remove the row.")
    found: Completions = {}
    prompt: Any = record.get("prompt")
    if names:
        prompt, *both = canonical(record, may_be_empty=True)
        found = {name: [text] for name, text in zip(names, both, strict=False)}
        answers = answers_beside(record, prompt, values)
    elif not isinstance(prompt, str | list):
        raise ValueError("has no prompt: add it, or name the column that holds it in data.columns.")
    else:
        prompt, answers = answers_alone(prompt, values)
    found |= {listed or form: answers} if answers else {}
    silent: Text = "" if isinstance(prompt, str) else SILENCE
    return prompt, {name: [text or silent for text in texts] for name, texts in found.items()}


def _checked(
    read: _RowReader, row: tuple[int, Mapping[str, Any]], numbering: Numbering, on_prefix_mismatch: str
) -> _Row:
    """The row, where errors name it; without completions where a mismatch is allowed for."""
    number, record = row
    try:
        return read(record)
    except RecursionError:
        raise ValueError(f"{numbering.where(number)} has values that are nested too deep: make them flatter.") from None
    except PrefixMismatch as mismatch:
        if on_prefix_mismatch != "drop":
            raise mismatch_error(str(mismatch), numbering.where(number), 1) from None
        return _Row()
    except ValueError as error:
        raise ValueError(f"{numbering.where(number)} {error}") from None


def _sides(columns: Completions) -> tuple[list[Text], list[Text]]:
    """All completions of a row, two by two; the last of an odd number is on both sides."""
    texts = [text for column in columns.values() for text in column]
    return texts[::2], texts[1::2] + texts[-1:] * (len(texts) % 2)


def _count(columns: Completions) -> int:
    return sum(map(len, columns.values()))


def _slots(completions: int) -> int:
    """Rows of two that hold so many completions."""
    return (completions + 1) // 2
