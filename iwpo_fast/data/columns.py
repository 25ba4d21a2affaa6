"""The columns that mean something to us: what they are called in the data, and the numbers in them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence

import numpy as np

from iwpo_fast.data.records import Records

TEXTS = ("prompt", "chosen", "rejected")
WEIGHTS = ("weight", "label_smoothing")
SCORES = ("score_chosen", "score_rejected")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
NUMBERS = (*WEIGHTS, "cluster", *SCORES, *REFERENCE)
PUBLIC = ("scores", "all_generated_responses", "all_rm_scores", "completions", "instruction", "answers")
"""Columns of public data sets that hold candidates (`iwpo_fast.data.candidates`); in another shape they are ignored."""
LARGEST = float(np.finfo(np.float32).max)
CANDIDATES = ("candidates", "candidate_scores")
COLUMNS = (*TEXTS, *NUMBERS, *CANDIDATES, "prompt_id", "tools", "chat_template_kwargs")


def column_names(mapping: Mapping[str, str], known: Sequence[str] = COLUMNS) -> dict[str, str]:
    """Our names, and those of public data sets, mapped to the source's: the same unless `mapping` renames them.

    Args:
        known: our columns.

    Raises:
        ValueError: a key of `mapping` is none of our columns.
    """
    for ours in mapping:
        if ours not in known:
            raise ValueError(f"data.columns names {ours!r}, which means nothing here: use {', '.join(known)}.")
    public = PUBLIC if known is COLUMNS else ()
    return {name: name for name in public} | {name: mapping.get(name, name) for name in known}


def check_mapping(mapping: Mapping[str, str], columns: Sequence[str], source: str) -> None:
    """Raise ValueError if `mapping` names a column that is not among those of the source."""
    for ours, theirs in mapping.items():
        if theirs not in columns:
            raise ValueError(
                f"data.columns names {theirs!r} as {ours}, which {source} does not have: "
                f"choose among {', '.join(columns)}."
            )


def numeric_columns(records: Records, source: str) -> dict[str, np.ndarray]:
    """float64 [N] arrays of the numeric columns that any row has; a score may be absent, as NaN.

    Scores of k reward models, given as lists, make [N, k].

    Raises:
        ValueError: a number is absent, not finite in float32, or out of its range, one of a couple of columns is
            missing, or rows hold lists of different lengths.
    """
    names = {name for record in records.values() for name in record}
    present = [name for name in NUMBERS if name in names]
    for couple in (SCORES, REFERENCE):
        missing = set(couple) - names
        if len(missing) == 1:
            raise ValueError(f"{source} lacks the column {missing.pop()}: give both {' and '.join(couple)} or none.")
    models = _reward_models(records, source) if SCORES[0] in present else None
    return {name: _numbers(name, records, source, models if name in SCORES else None) for name in present}


def _reward_models(records: Records, source: str) -> int | None:
    """Number of scores in each list of scores; None where scores are plain numbers."""
    lists = (
        (number, record[name])
        for number, record in records.items()
        for name in SCORES
        if isinstance(record.get(name), list)
    )
    number, first = next(lists, (0, None))
    if first == []:
        raise ValueError(
            f"In {source}, row {number} has an empty list of scores: give one number, or one per reward model."
        )
    return None if first is None else len(first)


def _numbers(name: str, records: Records, source: str, models: int | None) -> np.ndarray:
    """[N], or [N, models] where rows hold lists."""
    values = np.empty(len(records) if models is None else (len(records), models))
    for i, (number, record) in enumerate(records.items()):
        try:
            values[i] = _value(name, record.get(name), models)
        except ValueError as error:
            raise ValueError(f"In {source}, row {number} {error}") from None
    return values


def _value(name: str, value: object, models: int | None) -> float | list[float]:
    """Raises ValueError with a message that goes on from "row 1"."""
    if value is None:
        if name not in SCORES:
            raise ValueError(f"has no {name} although other rows have one: give every row a {name}.")
        return float("nan")
    if models is None:
        return number_of(name, value)
    if isinstance(value, list) and len(value) == models:
        return [number_of(name, element) for element in value]
    raise ValueError(
        f"has the {name} {reprlib.repr(value)} where other rows have lists of {models}: give every "
        "row one score per reward model."
    )


def number_of(name: str, value: object) -> float:
    """The value of a column as a float.

    Raises:
        ValueError: it is no number of float32, or out of the range of its column. The message goes on from "row 1".
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"has the {name} {reprlib.repr(value)}: make it a number.")
    if not -LARGEST <= value <= LARGEST:
        raise ValueError(f"has the {name} {reprlib.repr(value)}: make it a finite number of float32.")
    if name == "weight" and value < 0:
        raise ValueError(f"has the negative weight {value}: make it 0 or more.")
    if name == "label_smoothing" and not 0 <= value < 1:
        raise ValueError(f"has the label_smoothing {value}: make it 0 or more and less than 1.")
    return float(value)
