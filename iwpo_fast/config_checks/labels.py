"""Rules of soft labels and drawn pairs beside objective, rewards and candidates."""

from __future__ import annotations

from iwpo_fast.config import RunConfig
from iwpo_fast.objectives import Mixture


def check_soft_labels(config: RunConfig) -> None:
    asked, objective = config.weights.soft_labels, config.objective
    if asked not in ("auto", 0) and not Mixture.of(objective).smooths_labels:
        raise ValueError(
            f"weights.soft_labels is {asked} but the objective {objective.name} cannot smooth labels or does not "
            "read them: set weights.soft_labels to 0 or auto, or choose another objective."
        )
    if asked == "grades" and config.rewards.heads != "dprm":
        raise ValueError(
            f"weights.soft_labels is grades and rewards.heads is {config.rewards.heads}, which knows of no grades: set "
            "rewards.heads to dprm, or soft_labels to posterior."
        )
    if asked == "posterior" and not config.rewards.calibration:
        raise ValueError(
            "weights.soft_labels is posterior and rewards.calibration is false, but a posterior needs rewards in "
            "log-odds: set calibration to true, or soft_labels to a number."
        )


def leaves_room(config: RunConfig) -> bool:
    """Whether `auto` may soften labels: the objective can smooth them and does not yet, and rewards are calibrated."""
    mixture = Mixture.of(config.objective)
    smooths_already = mixture.has_smoothing or config.objective.label_smoothing > 0
    return config.rewards.calibration and mixture.smooths_labels and not smooths_already


def check_preferred_pairs(config: RunConfig) -> None:
    weights, candidates = config.weights, config.candidates
    asked, correction = weights.preferred_pairs, weights.proposal_correction
    if asked not in ("auto", 0):
        if not Mixture.of(config.objective).smooths_labels:
            raise ValueError(
                f"weights.preferred_pairs is {asked} but the objective {config.objective.name} cannot smooth labels or "
                "does not read them, and drawn pairs have soft ones: set preferred_pairs to 0 or auto, or choose "
                "another objective."
            )
        if not config.rewards.calibration:
            raise ValueError(
                f"weights.preferred_pairs is {asked} and rewards.calibration is false, but drawn pairs are labelled by "
                "rewards in log-odds: set calibration to true, or preferred_pairs to 0."
            )
    if correction and candidates.per_prompt == 0:
        raise ValueError(
            f"weights.proposal_correction is {correction} and candidates.per_prompt is 0, so no candidate comes from a "
            "known sampler: set per_prompt, or proposal_correction to 0."
        )
    if correction and candidates.temperature == candidates.top_p == 1:
        raise ValueError(
            f"weights.proposal_correction is {correction}, and candidates.temperature and top_p are 1, so there is "
            "nothing to correct: set proposal_correction to 0."
        )


def check_held_out_losses(config: RunConfig) -> None:
    rewards = config.rewards
    if config.weights.formula == "selective" and rewards.source == "features" and rewards.folds == 1:
        raise ValueError(
            "weights.experimental.method is selective and rewards.folds is 1, so that the loss of a pair would be that "
            "of heads which have seen its label: set rewards.folds to 2 or more."
        )
