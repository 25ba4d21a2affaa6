"""Preference pairs as JSON Lines, in one form that all stages and other trainers can read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.data.arrow_rows import taken
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.data.votes import are_absent
from iwpo_fast.files import written_aside
from iwpo_fast.importance.effects import Effects, effects_of

EFFECTS = ("weight", "label_smoothing", "drawn")


def write_rows(path: Path, rows: Rows, columns: Mapping[str, np.ndarray]) -> None:
    """Write texts, candidates and template arguments of `rows`, and the given columns, [N] or [N, k] each."""
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8") as file:
        for i, record in enumerate(_records(rows)):
            # An absent score is NaN, which JSON does not have.
            record |= {name: _plain(values[i]) for name, values in columns.items() if not np.isnan(values[i]).all()}
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")


def effects_in(path: Path) -> Effects:
    """What was done to the pairs of a weighted file."""
    with open(path, encoding="utf-8") as file:
        pairs = (record for record in map(json.loads, file) if "completion" not in record)
        columns = [[record.get(name, 0) for name in EFFECTS] for record in pairs]
    weight, label_smoothing, drawn = np.array(columns, dtype=np.float64).T
    return effects_of(weight, label_smoothing, drawn > 0)


def _plain(value: Any) -> Any:
    """As JSON has it; in a list an absent score is null."""
    if isinstance(value, np.ndarray):
        return [None if math.isnan(number) else number for number in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value


def _records(rows: Rows) -> Iterator[dict[str, Any]]:
    template: Iterable[dict[str, Any]] = rows.template or repeat({}, len(rows))
    texts = zip(rows.prompt, rows.chosen, rows.rejected, template, _candidates(rows), strict=True)
    for i, (prompt, chosen, rejected, arguments, candidates) in enumerate(texts):
        record: dict[str, Any] = {"prompt": prompt} | _completions(rows, i, chosen, rejected) | candidates
        keywords = {name: value for name, value in arguments.items() if name != "tools"}
        if "tools" in arguments:
            record["tools"] = arguments["tools"]
        yield record | ({"chat_template_kwargs": keywords} if keywords else {})


def _completions(rows: Rows, row: int, chosen: Text, rejected: Text) -> dict[str, Any]:
    """The two completions of a row, or the one that it has, with the label that says which it is."""
    if rows.present is None or rows.present[row].all():
        return {"chosen": chosen, "rejected": rejected}
    return {"completion": chosen, "label": bool(rows.present[row, 0])}


def _candidates(rows: Rows) -> Iterator[dict[str, Any]]:
    """What a file has of the candidates of each row."""
    candidates = rows.candidates
    if candidates is None:
        yield from repeat({}, len(rows))
        return
    order = np.argsort(candidates.row, kind="stable")
    bounds = np.searchsorted(candidates.row[order], np.arange(len(rows) + 1))
    for first, last in pairwise(bounds):
        texts, scores = taken(candidates.texts, order[first:last]), candidates.scores[order[first:last]]
        known = [None if absent else _plain(score) for absent, score in zip(are_absent(scores), scores, strict=True)]
        yield {"candidates": list(texts), "candidate_scores": known} if known else {}
