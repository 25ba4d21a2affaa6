"""Several data sets, trained on together, each with its weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import chain, repeat
from typing import Any

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data.annotators import annotators_of_all
from iwpo_fast.data.arrow_rows import Store, stored
from iwpo_fast.data.columns import SCORES
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.data.rows import Candidates, Rows, Text, some_absent
from iwpo_fast.data.votes import of_one_width


def sources_of(config: DataConfig) -> list[tuple[DataConfig, float]]:
    """The data of `data.path` and of each in `data.mix` by itself, with its weight."""
    alone = replace(config, mix=[])
    others = [{field.name: getattr(source, field.name) for field in fields(source)} for source in config.mix]
    return [(alone, 1.0), *((replace(alone, **own), weight) for own in others for weight in [own.pop("weight")])]


def together(parts: Sequence[Rows], weights: Sequence[float], *, votes: bool = False) -> Rows:
    """The rows of all parts, in their order.

    A pair's weight is multiplied by that of its data set. Scores may be absent; every other column that one part has
    the others need too.

    Args:
        votes: scores are votes, of as many annotators as each part has.

    Raises:
        ValueError: a part lacks a column, or has another number of scores.
    """
    if len(parts) == 1:
        return parts[0]
    numbers: list[np.ndarray] = []
    files: list[tuple[str, int]] = []
    last = 0
    for part in parts:
        files += Numbering(part.source, part.files).behind(last)
        numbers.append(part.numbers + last)
        last = int(numbers[-1].max())
    template = chain.from_iterable(_arguments(part) for part in parts)
    return Rows(
        source=" and ".join(part.source for part in parts),
        numbers=np.concatenate(numbers),
        prompt=stored(chain.from_iterable(part.prompt for part in parts)),
        chosen=stored(chain.from_iterable(part.chosen for part in parts)),
        rejected=stored(chain.from_iterable(part.rejected for part in parts)),
        columns=_columns(parts, weights, votes),
        template=stored(template) if any(part.template for part in parts) else None,
        mismatches=sum(part.mismatches for part in parts),
        candidates=_candidates(parts),
        unpaired=sum(part.unpaired for part in parts),
        unread=_added([part.unread for part in parts]),
        notes=_added([part.notes for part in parts]),
        files=tuple(files),
        present=_present(parts),
        annotators=annotators_of_all([(part.annotators, len(part)) for part in parts]),
    )


def _present(parts: Sequence[Rows]) -> np.ndarray | None:
    both = [np.ones((len(part), 2), dtype=bool) if part.present is None else part.present for part in parts]
    return some_absent(np.concatenate(both))


def _arguments(part: Rows) -> Iterable[dict[str, Any]]:
    return part.template or repeat({}, len(part))


def _columns(parts: Sequence[Rows], weights: Sequence[float], votes: bool) -> dict[str, np.ndarray]:
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    found = {name: _column(name, parts, votes and name in SCORES) for name in names if name != "weight"}
    if "weight" in names or any(weight != 1 for weight in weights):
        own = [part.columns.get("weight", np.ones(len(part))) for part in parts]
        found["weight"] = np.concatenate([weight * values for weight, values in zip(weights, own, strict=True)])
    return found


def _column(name: str, parts: Sequence[Rows], votes: bool) -> np.ndarray:
    having = [part for part in parts if name in part.columns]
    shapes = {part.columns[name].shape[1:] for part in having}
    if len(shapes) > 1 and not votes:
        raise ValueError(f"The data sets of data.mix have {name} by different numbers of models: make them alike.")
    shape = shapes.pop()
    for part in parts:
        if name not in part.columns and name not in SCORES:
            raise ValueError(
                f"{part.source} has no {name} and {having[0].source} has one: give it to both, or to none."
            )
    values = [part.columns.get(name, np.full((len(part), *shape), np.nan)) for part in parts]
    return np.concatenate(of_one_width(values) if votes else values)


def _candidates(parts: Sequence[Rows]) -> Candidates | None:
    if all(part.candidates is None for part in parts):
        return None
    names = {name for part in parts if part.candidates for name in part.candidates.left_out}
    row, score, before = [], [], 0
    texts: Store[Text] = Store()
    left_out: dict[str, list[np.ndarray]] = {name: [] for name in sorted(names)}
    for part in parts:
        some = part.candidates or Candidates([], np.empty(0, dtype=np.int64))
        texts.extend(some.texts)
        row.append(some.row + before)
        score.append(some.scores)
        for name, counts in left_out.items():
            counts.append(some.left_out.get(name, np.zeros(len(part), dtype=np.int64)))
        before += len(part)
    return Candidates(
        texts.finish(),
        np.concatenate(row),
        {"score": np.concatenate(of_one_width(score))},
        {name: np.concatenate(counts) for name, counts in left_out.items()},
    )


def _added(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for part in counts for name in part)
    return {name: sum(part.get(name, 0) for part in counts) for name in names}
