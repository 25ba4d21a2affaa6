"""What counts as a number in the data."""

from __future__ import annotations

import reprlib

import numpy as np

LARGEST = float(np.finfo(np.float32).max)


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
