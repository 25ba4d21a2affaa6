"""Preference pairs as JSON Lines, in one form that all stages and other trainers can read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.data.rows import Candidates, Rows
from iwpo_fast.files import written_aside
from iwpo_fast.importance.effects import Effects, effects_of

EFFECTS = ("weight", "label_smoothing", "drawn")


def write_rows(path: Path, rows: Rows, columns: Mapping[str, np.ndarray]) -> None:
    """Write texts, candidates and template arguments of `rows`, and the given columns, [N] or [N, k] each."""
    plain = {
        name: values.tolist() if isinstance(values, np.ndarray) else list(values) for name, values in columns.items()
    }
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8") as file:
        for i, record in enumerate(_records(rows)):
            record |= {name: values[i] for name, values in plain.items()}
            # An absent score is NaN, which JSON does not have.
            absent = [name for name in plain if np.isnan(record[name]).any()]
            kept = {name: value for name, value in record.items() if name not in absent}
            file.write(json.dumps(kept, ensure_ascii=False, default=str) + "\n")


def effects_in(path: Path) -> Effects:
    """What was done to the pairs of a weighted file."""
    with open(path, encoding="utf-8") as file:
        columns = [[record.get(name, 0) for name in EFFECTS] for record in map(json.loads, file)]
    weight, label_smoothing, drawn = np.array(columns, dtype=np.float64).T
    return effects_of(weight, label_smoothing, drawn > 0)


def _records(rows: Rows) -> Iterator[dict[str, Any]]:
    template = rows.template or [{}] * len(rows)
    candidates = _candidates(rows.candidates)
    texts = zip(rows.prompt, rows.chosen, rows.rejected, template, strict=True)
    for i, (prompt, chosen, rejected, arguments) in enumerate(texts):
        record: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected} | candidates.get(i, {})
        keywords = {name: value for name, value in arguments.items() if name != "tools"}
        if "tools" in arguments:
            record["tools"] = arguments["tools"]
        yield record | ({"chat_template_kwargs": keywords} if keywords else {})


def _candidates(candidates: Candidates | None) -> dict[int, dict[str, Any]]:
    """By row, what a file has of its candidates."""
    found: dict[int, dict[str, Any]] = {}
    if candidates is None:
        return found
    for row, text, score in zip(candidates.row.tolist(), candidates.texts, candidates.scores.tolist(), strict=True):
        record = found.setdefault(row, {"candidates": [], "candidate_scores": []})
        record["candidates"].append(text)
        record["candidate_scores"].append(None if math.isnan(score) else score)
    return found
