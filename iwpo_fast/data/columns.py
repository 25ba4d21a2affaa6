"""The columns that mean something to us: what they are called in the data, and the numbers in them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping

import numpy as np

from iwpo_fast.data.records import Records

TEXTS = ("prompt", "chosen", "rejected")
WEIGHTS = ("weight", "label_smoothing")
SCORES = ("score_chosen", "score_rejected")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
NUMBERS = (*WEIGHTS, "cluster", *SCORES, *REFERENCE)
LARGEST = float(np.finfo(np.float32).max)
COLUMNS = (*TEXTS, *NUMBERS, "prompt_id", "tools", "chat_template_kwargs")


def column_names(mapping: Mapping[str, str]) -> dict[str, str]:
    """Our names to the source's: the same unless `mapping` says otherwise.

    Raises:
        ValueError: a key of `mapping` is no column of ours.
    """
    for ours in mapping:
        if ours not in COLUMNS:
            raise ValueError(f"data.columns names {ours!r}, which means nothing here: use {', '.join(COLUMNS)}.")
    return {name: mapping.get(name, name) for name in COLUMNS}


def check_mapping(mapping: Mapping[str, str], found: Records) -> None:
    """Raise ValueError if `mapping` names a column that the source does not have."""
    for ours, theirs in mapping.items():
        if theirs not in found.columns:
            raise ValueError(
                f"data.columns names {theirs!r} as {ours}, which {found.source} does not have: "
                f"choose among {', '.join(found.columns)}."
            )


def numeric_columns(found: Records) -> dict[str, np.ndarray]:
    """float64 [N] arrays of the numeric columns that any row has; a score may be absent, as NaN.

    Scores of k reward models, given as lists, make [N, k].

    Raises:
        ValueError: a number is absent, not finite in float32, or out of its range, one of a couple of columns is
            missing, or rows hold lists of different lengths.
    """
    present = [name for name in NUMBERS if any(name in record for record in found.records)]
    for couple in (SCORES, REFERENCE):
        missing = [name for name in couple if name not in present]
        if len(missing) == 1:
            raise ValueError(f"{found.source} lacks the column {missing[0]}: give both {' and '.join(couple)} or none.")
    models = _reward_models(found) if SCORES[0] in present else None
    return {name: _numbers(name, found, models if name in SCORES else None) for name in present}


def _reward_models(found: Records) -> int | None:
    """Number of scores in each list of scores; None where scores are plain numbers."""
    models: int | None = None
    for record in found.records:
        values = [record[name] for name in SCORES if isinstance(record.get(name), list)]
        if values:
            models = len(values[0])
            break
    if models == 0:
        raise ValueError(f"{found.source} has an empty list of scores: give one number, or one per reward model.")
    return models


def _numbers(name: str, found: Records, models: int | None) -> np.ndarray:
    """[N], or [N, models] where a row holds a list."""
    values = np.empty(len(found.records) if models is None else (len(found.records), models))
    for i, (number, record) in enumerate(zip(found.numbers, found.records, strict=True)):
        value = record.get(name)
        where = f"In {found.source}, row {number}"
        if models is not None and value is not None:
            if not isinstance(value, list) or len(value) != models:
                raise ValueError(
                    f"{where} has the {name} {reprlib.repr(value)} where other rows have lists of {models}: give "
                    "every row one score per reward model."
                )
            values[i] = [_number(name, element, where) for element in value]
        elif value is None:
            if name not in SCORES:
                raise ValueError(f"{where} has no {name} although other rows have one: give every row a {name}.")
            values[i] = float("nan")
        else:
            values[i] = _number(name, value, where)
    return values


def _number(name: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{where} has the {name} {reprlib.repr(value)}: make it a number.")
    if not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{where} has the {name} {reprlib.repr(value)}: make it a finite number of float32.")
    if name == "weight" and value < 0:
        raise ValueError(f"{where} has the negative weight {value}: make it 0 or more.")
    if name == "label_smoothing" and not 0 <= value < 1:
        raise ValueError(f"{where} has the label_smoothing {value}: make it 0 or more and less than 1.")
    return float(value)
