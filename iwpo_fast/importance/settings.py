"""Checks of the weight settings, before anything is computed."""

from __future__ import annotations

import math

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance.noise import EVEN

OF_ALL = {"truncate", "defensive"}
READ_BY = {
    "irpss": OF_ALL | {"tau", "gamma", "rejected_exponent", "baseline", "ess_target"},
    "density_ratio": OF_ALL | {"ratio_scale"},
    "rejection": OF_ALL | {"ratio_scale", "ratio_alpha"},
    "none": set[str](),
}


def check_weight_settings(settings: WeightConfig) -> None:
    """Raise ValueError for the first setting that cannot work, with what it must be."""
    tau, target, soft = settings.tau, settings.ess_target, settings.soft_labels
    must_be = [
        (tau == "ess" or (not isinstance(tau, str) and tau > 0), "tau", tau, "positive or ess"),
        (0 <= settings.gamma < math.inf, "gamma", settings.gamma, "0 or more, and finite"),
        (math.isfinite(settings.rejected_exponent), "rejected_exponent", settings.rejected_exponent, "finite"),
        (
            target == "noise" or (not isinstance(target, str | bool) and 0 < target <= 1),
            "ess_target",
            target,
            "in (0, 1] or noise",
        ),
        (settings.truncate >= 1, "truncate", settings.truncate, "at least 1"),
        (0 <= settings.defensive <= 1, "defensive", settings.defensive, "in [0, 1]"),
        (
            soft == "auto" or (not isinstance(soft, str | bool) and 0 <= soft < 1),
            "soft_labels",
            soft,
            "in [0, 1) or auto",
        ),
        (0 < settings.ratio_scale < math.inf, "ratio_scale", settings.ratio_scale, "positive and finite"),
        (1 < settings.ratio_alpha < math.inf, "ratio_alpha", settings.ratio_alpha, "above 1, and finite"),
        (0 <= settings.min_ess <= 1, "min_ess", settings.min_ess, "in [0, 1]"),
    ]
    for holds, name, value, wanted in must_be:
        if not holds:
            raise ValueError(f"weights.{name} is {value}: it must be {wanted}.")
    _check_unread(settings)
    if settings.method == "irpss":
        _check_temperature(settings)


def _check_unread(settings: WeightConfig) -> None:
    """No setting may be without effect."""
    usual, read = WeightConfig(), READ_BY[settings.method]
    for name in sorted(set().union(*READ_BY.values()) - read):
        value = getattr(settings, name)
        if value != getattr(usual, name):
            raise ValueError(
                f"weights.{name} is {value} and weights.method is {settings.method}, which does not read it: leave "
                f"weights.{name} out, or choose another method."
            )


def _check_temperature(settings: WeightConfig) -> None:
    """No setting of the temperature, or of what it cannot make even, may be without effect."""
    tau, target = settings.tau, settings.ess_target
    if tau != "ess":
        if target != "noise":
            raise ValueError(
                f"weights.ess_target is {target} and weights.tau is {tau}, which keeps to no target: set weights.tau "
                "to ess, or leave weights.ess_target out."
            )
        return
    for name in ("gamma", "rejected_exponent"):
        value = getattr(settings, name)
        if value != 0 and (target == "noise" or target >= EVEN):
            raise ValueError(
                f"weights.{name} is {value} and weights.ess_target is {target}, which can make all weights 1 whatever "
                f"the {name}: set weights.ess_target to a number below {EVEN}, or weights.tau to a number."
            )
