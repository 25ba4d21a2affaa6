"""Where the soft labels of a run go, and where they do not."""

from __future__ import annotations

from dataclasses import replace

from iwpo_fast.config import RunConfig, WeightConfig
from iwpo_fast.importance import strength_of
from iwpo_fast.objectives import Mixture
from iwpo_fast.pipeline.context import Context


def check_soft_labels(config: RunConfig) -> None:
    """Raise ValueError for soft labels that were asked for and cannot change the objective."""
    strength = config.weights.soft_labels
    if strength != "auto" and strength > 0 and not Mixture.of(config.objective).smooths_labels:
        raise ValueError(
            f"weights.soft_labels is {strength} but the objective {config.objective.name} cannot smooth labels or does "
            "not read them: set weights.soft_labels to 0 or auto, or choose another objective."
        )


def leaves_room(config: RunConfig) -> bool:
    """Whether `auto` may soften labels: they can be, nothing else does, and the rewards are calibrated."""
    mixture = Mixture.of(config.objective)
    own = mixture.has_smoothing or config.objective.label_smoothing > 0
    return config.rewards.calibration and mixture.smooths_labels and not own


def weight_settings(context: Context) -> WeightConfig:
    """Soft labels that were not asked for leave alone what they would replace, or could not change."""
    settings, own = context.config.weights, context.pairs.label_smoothing
    if settings.soft_labels != "auto" or strength_of(settings) == 0:
        return settings
    if own is not None and own.any():
        print("labels stay as the data smooth them; weights.soft_labels replaces that if it is a number")
    elif not leaves_room(context.config):
        print("labels stay hard: the objective smooths them or cannot, or rewards are not calibrated")
    else:
        return settings
    return replace(settings, soft_labels=0.0)
