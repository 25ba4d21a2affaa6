"""Preference objectives: pure functions from log-probs of sequences to one loss per pair, without weights.

One file per family; the functions register themselves, and `Mixture` is what a configuration asks for.
"""

from iwpo_fast.objectives import (
    batchwise,
    distillation,
    drdo,
    drpo,
    margin,
    pointwise,
    rankings,
    reference_free,
    spo,
    uncertain,
    weighed,
)
from iwpo_fast.objectives.mixture import Mixture
from iwpo_fast.objectives.pair import Pair, Side
from iwpo_fast.objectives.registry import OBJECTIVES, Objective, get_objective

FAMILIES = (margin, rankings, pointwise, batchwise, reference_free, distillation, uncertain, drdo, drpo, spo, weighed)

__all__ = ["FAMILIES", "OBJECTIVES", "Mixture", "Objective", "Pair", "Side", "get_objective"]
