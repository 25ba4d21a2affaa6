"""Rules of rewards."""

from __future__ import annotations

from dataclasses import fields

from iwpo_fast.config import CategoryConfig, FamilyConfig, PessimismConfig, RewardConfig
from iwpo_fast.config_checks.model import check_lora
from iwpo_fast.config_checks.training import check_optim
from iwpo_fast.config_checks.unread import refuse_unread
from iwpo_fast.limits import check_limits

OF_CATEGORIES = tuple(f"categories.{setting.name}" for setting in fields(CategoryConfig))
"""Settings of rewards that only distributions over grades read."""

OF_HEADS = (
    *("likelihood", "ridge", "residual", "heads", "preference_dimension", "centring"),
    *("overlap", "folds", "ensemble", *OF_CATEGORIES),
)
"""Settings of rewards that only heads read."""

OF_CALIBRATION = ("calibration_strength", "max_reward")
"""Settings of rewards that only their calibration reads."""


def check_reward_settings(rewards: RewardConfig) -> None:
    """Raise ValueError where a setting cannot be, or goes with another source of rewards."""
    check_limits(rewards, "rewards")
    source, tuning = rewards.source, rewards.tuning
    if (source in ("model", "iwpo")) != (rewards.model is not None):
        raise ValueError(
            f"rewards.source is {source} and rewards.model is {rewards.model}: a model goes with the "
            "sources model and iwpo, and with no other."
        )
    if tuning is not None and source != "features":
        raise ValueError(
            f"rewards.tuning is set and rewards.source is {source}: it goes with the source features, and with no "
            "other."
        )
    if tuning is not None and rewards.overlap:
        raise ValueError(
            f"rewards.overlap is {rewards.overlap} and rewards.tuning is set: tuning compares the two responses of a "
            "pair alone, so set rewards.overlap to 0 or leave rewards.tuning out."
        )
    if rewards.heads in ("mlp", "gpm", "dprm") and rewards.overlap:
        raise ValueError(
            f"rewards.heads is {rewards.heads} and rewards.overlap is {rewards.overlap}, which is for linear heads "
            "alone: set rewards.heads to linear or auto, or rewards.overlap to 0."
        )
    if rewards.heads == "dprm" and tuning is not None:
        raise ValueError(
            "rewards.heads is dprm, which learns from grades, and rewards.tuning is set, which learns from labels: set "
            "rewards.heads to another kind, or leave rewards.tuning out."
        )
    if source != "features":
        reason = f"rewards.source is {source}, which learns no heads"
        refuse_unread(rewards, "rewards", OF_HEADS, reason, "set rewards.source to features")
    if rewards.heads != "gpm":
        reason = f"rewards.heads is {rewards.heads}, which embeds nothing"
        refuse_unread(rewards, "rewards", ["preference_dimension"], reason, "set rewards.heads to gpm")
    if rewards.heads != "dprm":
        reason = f"rewards.heads is {rewards.heads}, which reads no grades"
        refuse_unread(rewards, "rewards", OF_CATEGORIES, reason, "set rewards.heads to dprm")
    elif rewards.categories.loss == "cross_entropy":
        reason = "rewards.categories.loss is cross_entropy, which moves nothing"
        refuse_unread(rewards.categories, "rewards.categories", ["cost_exponent"], reason, "set loss to transport")
    if rewards.heads == "gpm" and rewards.preference_dimension % 2:
        raise ValueError(
            f"rewards.preference_dimension is {rewards.preference_dimension}, and preferences turn in planes of two "
            "dimensions: give an even number."
        )
    if source == "iwpo":
        reason = "rewards.source is iwpo, whose scores are calibrated already"
        refuse_unread(rewards, "rewards", ("calibration", *OF_CALIBRATION), reason, "choose another source")
    if not rewards.calibration:
        reason = "rewards.calibration is false, which leaves rewards as they are"
        refuse_unread(rewards, "rewards", OF_CALIBRATION, reason, "set rewards.calibration to true")
    if rewards.family is not None:
        _check_family(rewards, rewards.family)
    if rewards.pessimism is not None:
        _check_pessimism(rewards, rewards.pessimism)
    if tuning is not None:
        check_optim(tuning.optim, "rewards.tuning.optim")
        check_lora(tuning.lora, "rewards.tuning.lora")
        if tuning.lora.modules_to_save:
            raise ValueError(
                f"rewards.tuning.lora.modules_to_save is {tuning.lora.modules_to_save}, but rewards are tuned by "
                "update matrices alone: leave it out."
            )


def _check_pessimism(rewards: RewardConfig, asked: PessimismConfig) -> None:
    """Refuse pessimism without heads, features or members that it could read, and settings that its form does not."""
    if rewards.source != "features":
        raise ValueError(
            f"rewards.pessimism is set and rewards.source is {rewards.source}, which learns no heads on features: "
            "leave rewards.pessimism out, or set rewards.source to features."
        )
    if asked.form == "minimum":
        reason = "rewards.pessimism.form is minimum"
        refuse_unread(asked, "rewards.pessimism", ("scale", "ridge"), reason, "set form to bonus")
        if rewards.members == 1:
            one = "ensemble is 1, which" if rewards.family is None else "family is of one, which"
            raise ValueError(
                f"rewards.pessimism.form is minimum and rewards.{one} has no other members: raise "
                f"rewards.{'ensemble' if rewards.family is None else 'family'}, or set rewards.pessimism.form to bonus."
            )
    elif rewards.tuning is not None:
        raise ValueError(
            "rewards.pessimism.form is bonus and rewards.tuning is set, which moves the features that the bonus reads: "
            "set rewards.pessimism.form to minimum, or leave rewards.tuning out."
        )


def _check_family(rewards: RewardConfig, asked: FamilyConfig) -> None:
    """Refuse a family without members, or of models that do not learn from labels on frozen features."""
    for reason, remedy in (
        (rewards.source != "features" and f"source is {rewards.source}, which learns no heads", "source to features"),
        (rewards.heads == "dprm" and "heads is dprm, which learns from grades and not from labels", "heads to auto"),
        (rewards.tuning is not None and "tuning is set, which has one adapter for all members", "tuning to null"),
    ):
        if reason:
            raise ValueError(
                f"rewards.family is set and rewards.{reason}: leave rewards.family out, or set rewards.{remedy}."
            )
    if not asked.members:
        raise ValueError(
            "rewards.family.rates is empty and rewards.family.subsets is 0, so that no member is left: give rates, set "
            "subsets, or leave rewards.family out."
        )
    if len(set(asked.rates)) < len(asked.rates):
        raise ValueError(
            f"rewards.family.rates is {asked.rates}, one of them twice: name each once, and raise resamples for more "
            "members at a rate."
        )
    reason = "rewards.family is set, whose members take the place of bootstraps"
    refuse_unread(rewards, "rewards", ["ensemble"], reason, "set rewards.family to null")
    if not asked.biased:
        reason = "rewards.family.rates names no number, to which pairs would be drawn"
        refuse_unread(asked, "rewards.family", ("longer_by", "resamples"), reason, "name one")
    if not asked.subsets:
        reason = "rewards.family.subsets is 0"
        refuse_unread(asked, "rewards.family", ["share"], reason, "raise subsets")
