"""TRL's batches of pairs with the numbers that each pair brings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from trl.trainer.dpo_trainer import DataCollatorForPreference

from iwpo_fast.data.columns import SCORES, WEIGHTS
from iwpo_fast.data.number import number_of

NUMBERS = (*WEIGHTS, *SCORES)
"""What a pair may bring: `weight`, `label_smoothing`, `score_chosen` and `score_rejected`."""


@dataclass
class WeightedPreferenceCollator(DataCollatorForPreference):
    """`trl.DataCollatorForPreference` whose batches have the columns `NUMBERS` too, float32 [P] each.

    Scores may be lists, of k reward models: [P, k].

    Args:
        columns: our names to the names in the data; what an example lacks, its batch lacks too.

    Raises:
        ValueError: an example lacks a number that the others have, or has one that is out of range.
    """

    columns: Mapping[str, str] = field(default_factory=lambda: {name: name for name in NUMBERS})

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        for ours, theirs in self.columns.items():
            if any(theirs in example for example in examples):
                batch[ours] = column_of(ours, theirs, (example.get(theirs) for example in examples))
        return batch


def column_of(ours: str, theirs: str, given: Iterable[Any], source: str | None = None) -> Tensor:
    """What pairs bring under the name `theirs`, float32 [P] or [P, k].

    Args:
        source: what sentences call the data set that all of them are from, in order.

    Raises:
        ValueError: one has none, or one that is out of range, or has as many scores as the others have not.
    """
    values = [
        _checked(ours, theirs, value, "A pair" if source is None else f"{source}[{i}]") for i, value in enumerate(given)
    ]
    if len({len(value) if isinstance(value, list) else None for value in values}) > 1:
        raise ValueError(f"Pairs have {theirs} of different lengths: give every pair one score per reward model.")
    return torch.tensor(values, dtype=torch.float32)


def _checked(ours: str, theirs: str, value: Any, where: str) -> float | list[float]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{where} has no {theirs} although others have one: give every pair one, or none.")
    try:
        return [number_of(ours, one) for one in value] if isinstance(value, list) else number_of(ours, value)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
