"""An objective as people are told of it."""

from __future__ import annotations

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.objectives.mixture import Mixture


def objective_words(config: ObjectiveConfig) -> str:
    """Its name with the β in effect, as in `sigmoid (β = 0.1)`, or those of a mixture with their coefficients."""
    mixture = Mixture.of(config)
    parts = []
    for name, coefficient in mixture.coefficients.items():
        beta = mixture.parameters[name].get("beta")
        value = "" if beta is None else f" (β = {float(beta):g})"
        parts.append(f"{'' if coefficient == 1 else f'{coefficient:g} '}{name}{value}")
    return " + ".join(parts)
