"""Checks of the reward settings."""

from __future__ import annotations

import math

from iwpo_fast.config import RewardConfig


def check_reward_settings(settings: RewardConfig) -> None:
    """Raises ValueError where a setting cannot be."""
    if (settings.source == "model") != (settings.model is not None):
        raise ValueError(
            f"rewards.source is {settings.source} and rewards.model is {settings.model}: a model goes with the source "
            "model, and with no other."
        )
    if settings.tuning is not None and settings.source != "features":
        raise ValueError(
            f"rewards.tuning is set and rewards.source is {settings.source}: it goes with the source features, and "
            "with no other."
        )
    if settings.tuning is not None and settings.overlap:
        raise ValueError(
            f"rewards.overlap is {settings.overlap} and rewards.tuning is set: tuning compares the two responses of a "
            "pair alone, so set rewards.overlap to 0 or leave rewards.tuning out."
        )
    if settings.source != "features":
        _check_unread(settings)
    for name in ("folds", "ensemble"):
        value = getattr(settings, name)
        if value != int(value) or value < 1:
            raise ValueError(f"rewards.{name} is {value}: set it to a whole number from 1 up.")
    if settings.ridge != "auto" and not _above(settings.ridge, 0):
        raise ValueError(
            f"rewards.ridge is {settings.ridge}: pairs can be separable, so set it above 0 (1e-3, say) or to auto."
        )
    if settings.residual not in ("auto", None) and not _above(settings.residual, 0):
        raise ValueError(
            f"rewards.residual is {settings.residual}: set it above 0, to auto, or to null for no residuals."
        )
    for name in ("centring", "overlap", "calibration_strength"):
        value = getattr(settings, name)
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"rewards.{name} is {value}: set it to a finite number from 0 up.")
    if not settings.max_reward > 0:
        raise ValueError(f"rewards.max_reward is {settings.max_reward}: set it above 0.")


def _check_unread(settings: RewardConfig) -> None:
    """Scores of elsewhere have no heads, so nothing may be set for these."""
    usual = RewardConfig()
    for name in ("likelihood", "ridge", "residual", "centring", "overlap", "folds", "ensemble"):
        value = getattr(settings, name)
        if value != getattr(usual, name):
            raise ValueError(
                f"rewards.{name} is {value} and rewards.source is {settings.source}, which learns no heads: leave "
                f"rewards.{name} out, or set rewards.source to features."
            )


def uses_likelihood(settings: RewardConfig) -> bool:
    """Whether heads read the mean log-prob of a response."""
    return settings.tuning is None if settings.likelihood == "auto" else settings.likelihood


def _above(value: object, least: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > least
