"""Arms: the parts of the method, each by itself, as settings of weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iwpo_fast.config import Arm, WeightConfig


def arm_weights(arm: Arm, of_run: WeightConfig) -> WeightConfig:
    """The settings of one part of the method beside a run; none of them draws preferred pairs.

    Args:
        of_run: settings of the run, of which a part keeps what it reads.
    """
    return replace(_of_part(arm, of_run), forward_kl=of_run.forward_kl)


def _of_part(arm: Arm, of_run: WeightConfig) -> WeightConfig:
    if arm == "dpo":
        return WeightConfig(form="off")
    posterior: dict[str, Any] = {"soft_labels": "posterior", "relative_variance": of_run.relative_variance}
    if arm == "labels":
        return WeightConfig(form="off", **posterior)
    weights = _weights_alone(of_run)
    return weights if arm == "weights" else replace(weights, **posterior)


def _weights_alone(of_run: WeightConfig) -> WeightConfig:
    if of_run.formula == "none":
        # Whoever asked for none did not choose how unequal weights may be: the report says it, and nothing stops.
        return WeightConfig(form="strong", soft_labels=0.0, preferred_pairs=0, force=True)
    plain = WeightConfig()
    return replace(
        of_run,
        soft_labels=0.0,
        preferred_pairs=0,
        relative_variance=plain.relative_variance,
        opponent=plain.opponent,
        proposal_correction=plain.proposal_correction,
    )
