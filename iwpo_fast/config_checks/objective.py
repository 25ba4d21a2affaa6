"""Rules of the loss and its reference."""

from __future__ import annotations

from iwpo_fast.config import ObjectiveConfig, RunConfig, TrainConfig
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads


def check_objective(objective: ObjectiveConfig) -> None:
    alpha = objective.divergence_alpha
    if alpha is not None and objective.divergence != "alpha":
        raise ValueError(
            f"objective.divergence_alpha is {alpha} but objective.divergence is {objective.divergence}: set that to "
            "alpha, or leave divergence_alpha out."
        )
    mixture = Mixture.of(objective)
    if objective.reward_head_lr is not None and not mixture.reads(Reads.OWN_REWARD):
        raise ValueError(
            f"objective.reward_head_lr is {objective.reward_head_lr} but {objective.name} trains no reward head: leave "
            "it out, or choose drdo."
        )


def check_own_rewards(config: TrainConfig) -> None:
    """Refuse processes that would have a part of the reward head, or of the tokens that it reads."""
    mixture = Mixture.of(config.objective)
    if not mixture.reads(Reads.OWN_REWARD):
        return
    for setting in ("shard_over", "context_parallel"):
        value = getattr(config, setting)
        if value != 1:
            raise ValueError(
                f"{setting} is {value} and the objective {mixture.reading(Reads.OWN_REWARD)} trains a reward "
                f"head, which every process has whole and beside whole sequences: set {setting} to 1, with model.lora "
                "where the model is large."
            )


def check_candidates_are_read(config: RunConfig) -> None:
    """Refuse an objective that orders candidates, because the files of a run hold pairs."""
    name = Mixture.of(config.objective).reading(Reads.CANDIDATES)
    if name is not None:
        raise ValueError(
            f"The objective {name} compares all candidates of a row, and iwpo run weighs pairs of them: use iwpo "
            "train, or choose another objective."
        )


def check_reference(config: TrainConfig) -> None:
    given, sync, name = config.model.reference, config.reference_sync, config.objective.name
    settings = {"model.reference": given, "reference_sync": sync and f"{sync.alpha} every {sync.steps} steps"}
    is_read = Mixture.of(config.objective).uses_reference or config.sampled_kl is not None
    for setting, value in settings.items() if not is_read else ():
        if value is not None:
            raise ValueError(
                f"{setting} is {value} and the objective {name} reads no reference: leave {setting} out, or choose "
                "another objective."
            )
    if sync is not None and Mixture.of(config.objective).uses_reference_of_all:
        raise ValueError(
            f"reference_sync is set and the objective {name} reads the reference of all candidates, and only those of "
            "pairs are computed again where it moves: leave reference_sync out, or choose another objective."
        )
    if sync is not None and given is not None:
        raise ValueError(
            f"model.reference is {given} and reference_sync is set, but what moves is the policy as it was at first: "
            "leave one of the two out."
        )
    if sync is not None and sync.alpha != 1 and (config.model.lora or config.model.adapter) is not None:
        raise ValueError(
            f"reference_sync.alpha is {sync.alpha} and an adapter is trained, of which the mean of two is not the mean "
            "of what they do: set reference_sync.alpha to 1, or train all weights."
        )
    if given == "tiny":
        raise ValueError("model.reference is tiny, which has random weights: give the folder or the id of a model.")
