"""Where exponentials in the product's epilogue are faster than cuBLAS with a pass of their own behind it."""

from __future__ import annotations

from typing import NamedTuple


class WidestHidden(NamedTuple):
    """Up to which hidden size it pays, 0 for never: products are then short beside what surrounds them."""

    no_gradient: int = 0
    frozen: int = 0


# By architecture. Empty until somebody measures: nobody gets the path by default.
MEASURED: dict[str, WidestHidden] = {}


def pays(architecture: str, hidden_size: int, masses: bool) -> bool:
    """Whether to take it: `masses` says if the Jacobian of hidden states is wanted, which a second product makes."""
    widest = MEASURED.get(architecture, WidestHidden())
    return hidden_size <= (widest.frozen if masses else widest.no_gradient)
