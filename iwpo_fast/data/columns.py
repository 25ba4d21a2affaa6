"""The columns that mean something to us: what they are called in the data, and the numbers in them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np

from iwpo_fast.data.annotators import ANNOTATOR
from iwpo_fast.data.number import number_of
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.data.row_files import Row
from iwpo_fast.data.strict_json import loads
from iwpo_fast.data.votes import Score, of_one_width, refuse_histogram, stored_scores, votes_of

T = TypeVar("T")

TEXTS = ("prompt", "chosen", "rejected")
WEIGHTS = ("weight", "label_smoothing")
SCORES = ("score_chosen", "score_rejected")
SCORES_OF_SIDES = ("score_first", "score_second")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
NUMBERS = (*WEIGHTS, "cluster", *SCORES, *SCORES_OF_SIDES, *REFERENCE)
_ASKED = (
    *("question", "input", "instruction", "system", "history", "context", "query"),
    *("user_prompt", "system_prompt", "problem", "document", "documents", "passage", "article", "post"),
    *("dialogue", "dialog", "conversation", "user", "user_input", "user_message", "system_message", "message"),
    *("task", "questions", "inputs", "instructions", "contexts", "developer", "title", "body", "text", "background"),
)
ASKED = tuple(dict.fromkeys(written for name in _ASKED for written in (name, name.capitalize(), name.upper())))
"""Names under which people keep the prompt or a part of it; none is left out without a word."""
LABELS = ("label", "labels", "kto_tag")
"""Whether the one completion of a row is desirable: as TRL, and as LLaMA-Factory names it."""
SINGLE = ("completion", LABELS[0])
PUBLIC = (
    *("scores", "all_generated_responses", "all_rm_scores", "completions", "answers"),
    *(*LABELS[1:], "instruction"),
)
"""Columns of public data sets and of other trainers; in a shape that is not theirs they are ignored."""
CANDIDATES = ("candidates", "candidate_scores")
IN_TABLES = frozenset((*NUMBERS, "candidate_scores", "scores", "all_rm_scores"))
"""Columns that are numbers, or lists of them, although a file holds nothing but text."""
PREFERRED = ("first", "second", "preferred")
TURNS = ("system", "history", "conversations", "messages")
COLUMNS = (
    *(*TEXTS, *SINGLE, *TURNS, *PREFERRED, *NUMBERS, *CANDIDATES, "ranked"),
    *("prompt_id", ANNOTATOR, "tools", "chat_template_kwargs"),
)


def column_names(mapping: Mapping[str, str | None], known: Sequence[str] = COLUMNS) -> dict[str, str]:
    """Our names, and those of public data sets, mapped to the source's: the same unless `mapping` renames them.

    Args:
        mapping: None leaves a column of ours out; `a+b` joins two columns of the source.
        known: our columns.

    Raises:
        ValueError: a key of `mapping` is none of our columns.
    """
    for ours in mapping:
        if ours not in known:
            raise ValueError(f"data.columns names {ours!r}, which means nothing here: use {', '.join(known)}.")
    parts = [part for joined in joined_columns(mapping).values() for part in joined]
    elsewhere = {*mapping.values(), *parts} & set(TURNS)  # a history that is named as the prompt is no history
    ours_to_theirs = {name: mapping.get(name, None if name in elsewhere else name) for name in known}
    left_out = {name for name, theirs in ours_to_theirs.items() if theirs is None}
    as_they_are = {name: name for name in (*PUBLIC, *parts) if name not in left_out}
    return as_they_are | {ours: theirs for ours, theirs in ours_to_theirs.items() if theirs is not None}


def split_columns(names: Mapping[str, str]) -> Callable[[Row], tuple[Row, Row]]:
    """What makes of a row of the source a row under our names, and another of what else it holds.

    Args:
        names: as of `column_names`.
    """
    ours_of: dict[str, list[str]] = {}
    for ours, theirs in names.items():
        ours_of.setdefault(theirs, []).append(ours)

    def split(row: Row) -> tuple[Row, Row]:  # by the few columns of a row, not by the many names that mean something
        record = {ours: value for theirs, value in row.items() for ours in ours_of.get(theirs, ())}
        return record, {theirs: value for theirs, value in row.items() if theirs not in ours_of}

    return split


def joined_columns(mapping: Mapping[str, str | None]) -> dict[str, list[str]]:
    """By our name, the columns of the source that are joined by line ends, as in `prompt: instruction+input`."""
    return {ours: theirs.split("+") for ours, theirs in mapping.items() if theirs and "+" in theirs}


def check_mapping(mapping: Mapping[str, str | None], columns: Sequence[str], source: str) -> None:
    """Raise ValueError if `mapping` names a column that is not among those of the source."""
    parts = joined_columns(mapping)
    for ours, theirs in mapping.items():
        if theirs not in (None, *columns) and not (ours in parts and set(parts[ours]) <= set(columns)):
            raise ValueError(
                f"data.columns names {theirs!r} as {ours}, which {source} does not have: "
                f"choose among {', '.join(columns)}."
            )


def with_numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a file that holds nothing but text, such as CSV, with numbers in the columns that hold numbers."""
    return {name: _as_number(value) if name in IN_TABLES else value for name, value in record.items()}


def _as_number(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    for read in (loads, float):  # lists of scores, and numbers such as .5
        with suppress(ValueError, RecursionError):
            return read(text)
    return text


def numeric_columns(
    numbers: Sequence[int], records: Sequence[Row], numbering: Numbering, *, votes: bool = False
) -> dict[str, np.ndarray]:
    """float64 [N] arrays of the numeric columns that any row has; a score may be absent, as NaN.

    Scores of k reward models or annotators, given as lists, make [N, k].

    Args:
        numbers: of the rows.
        records: their numeric columns at least.
        votes: scores are votes, of as many annotators as each row has, and may be histograms of them.

    Raises:
        ValueError: a number is absent, not finite in float32, or out of its range, one of a couple of columns is
            missing, or rows hold lists of different lengths.
    """
    names = {name for record in records for name in record}
    present = [name for name in NUMBERS if name in names]
    for couple in (SCORES, SCORES_OF_SIDES, REFERENCE):
        missing = set(couple) - names
        if len(missing) == 1:
            lacking = f"{numbering.title} lacks the column {missing.pop()}"
            raise ValueError(f"{lacking}: give both {' and '.join(couple)} or none.")
    if {*SCORES, *SCORES_OF_SIDES} <= names:
        raise ValueError(f"{numbering.title} has both {SCORES[0]} and {SCORES_OF_SIDES[0]}: leave one of them out.")
    scores = SCORES_OF_SIDES if SCORES_OF_SIDES[0] in names else SCORES
    is_scored = scores[0] in present
    models = _reward_models(numbers, records, numbering, scores) if is_scored and not votes else None

    def each(name: str, value_of: Callable[[str, Any], T]) -> Iterator[T]:
        for number, record in zip(numbers, records, strict=True):
            try:
                yield value_of(name, record.get(name))
            except ValueError as error:
                raise ValueError(f"{numbering.where(number)} {error}") from None

    found = {name: _empty(len(records), models if name in scores else None) for name in present}
    for name, values in found.items():
        if name in scores and votes:
            found[name] = stored_scores(each(name, _votes))
            continue
        for i, value in enumerate(each(name, partial(_value, models if name in scores else None))):
            values[i] = value
    if is_scored and votes:
        found |= zip(scores, of_one_width([found[name] for name in scores]), strict=True)
    return found


def _empty(rows: int, models: int | None) -> np.ndarray:
    """[N], or [N, models] where rows hold lists."""
    return np.empty(rows if models is None else (rows, models))


def _reward_models(
    numbers: Sequence[int], records: Sequence[Row], numbering: Numbering, scores: Sequence[str]
) -> int | None:
    """Number of scores in each list of scores; None where scores are plain numbers."""
    lists = (
        (number, record[name])
        for number, record in zip(numbers, records, strict=True)
        for name in scores
        if isinstance(record.get(name), list)
    )
    number, first = next(lists, (0, None))
    if first == []:
        raise ValueError(
            f"{numbering.where(number)} has an empty list of scores: give one number, or one per reward model."
        )
    return None if first is None else len(first)


def _votes(name: str, value: Any) -> Score:
    return float("nan") if value is None else votes_of(name, value)


def _value(models: int | None, name: str, value: object) -> float | list[float]:
    """Raises ValueError with a message that goes on from "row 1"."""
    if value is None:
        if name not in (*SCORES, *SCORES_OF_SIDES):
            raise ValueError(f"has no {name} although other rows have one: give every row a {name}.")
        return float("nan")
    if name in (*SCORES, *SCORES_OF_SIDES):
        refuse_histogram(name, value)
    if models is None:
        return number_of(name, value)
    if isinstance(value, list) and len(value) == models:
        return [float("nan") if element is None else number_of(name, element) for element in value]
    raise ValueError(
        f"has the {name} {reprlib.repr(value)} where other rows have lists of {models}: give every "
        "row one score per reward model, or null where one gave none."
    )
