"""Rules of weights."""

from __future__ import annotations

from math import inf
from operator import attrgetter

from iwpo_fast.config import EVEN, WeightConfig
from iwpo_fast.config_checks.unread import refuse_unread
from iwpo_fast.limits import check_limits

OF_ALL = {"truncate", "defensive", "realisation", "min_ess", "force"}

READ_BY = {
    "irpss": OF_ALL
    | {"tau", "gamma", "ess_target"}
    | {f"experimental.{name}" for name in ("rejected_exponent", "baseline", "selection")},
    "density_ratio": OF_ALL | {"experimental.ratio_scale"},
    "rejection": OF_ALL | {"experimental.ratio_scale", "experimental.ratio_alpha"},
    "madpo": OF_ALL | {f"experimental.madpo_{name}" for name in ("factor", "turn", "sharpness")},
    "selective": OF_ALL | {"experimental.selected_share"},
    "none": set[str](),
}
"""Settings of weights that each formula reads."""


def check_weight_settings(weights: WeightConfig) -> None:
    """Raise ValueError for the first setting that cannot work, or that the formula does not read."""
    check_limits(weights, "weights")
    formula, other = weights.formula, weights.experimental.method
    if other is not None and weights.method == "none":
        raise ValueError(
            f"weights.experimental.method is {other} and weights.method is none, and only one of them can be: leave "
            "one of them out."
        )
    setting = "weights.method" if other is None else "weights.experimental.method"
    by_form = f" by weights.form {weights.form}" if other is None and weights.method == "auto" else ""
    # The draws read a number for the temperature, whatever weighs pairs (`preferred.target_temperature`).
    of_draws = {"tau"} if weights.resolved().preferred_pairs and not isinstance(weights.tau, str) else set[str]()
    unread = sorted(set().union(*READ_BY.values()) - READ_BY[formula] - of_draws)
    reason = f"{setting} is {formula}{by_form}, which does not read it"
    refuse_unread(weights, "weights", unread, reason, "choose another method")
    if formula == "irpss":
        _check_temperature(weights)
    _check_doubt(weights)


def _check_doubt(weights: WeightConfig) -> None:
    """Refuse settings of posterior labels and of preferred pairs that nothing reads, or that exclude one another."""
    resolved, variance = weights.resolved(), weights.relative_variance
    soft_labels, preferred = resolved.soft_labels, resolved.preferred_pairs
    if not preferred:
        reason = "weights.preferred_pairs is 0, which draws no pairs"
        refuse_unread(weights, "weights", ("opponent", "proposal_correction"), reason, "set preferred_pairs")
    elif variance == inf:
        raise ValueError(
            f"weights.relative_variance is inf and weights.preferred_pairs is {preferred}, but pairs are drawn by the "
            "rewards, which it does not believe at all: set relative_variance to a number, or preferred_pairs to 0."
        )
    if soft_labels != "posterior" and not preferred and variance != WeightConfig().relative_variance:
        raise ValueError(
            f"weights.relative_variance is {variance} and weights.soft_labels is {soft_labels}, which does not read "
            "it: set soft_labels to posterior, or leave relative_variance out."
        )


def _check_temperature(weights: WeightConfig) -> None:
    """Refuse a temperature, its target, or a term beside it that would be set and have no effect."""
    weights = weights.resolved()
    tau, target = weights.tau, weights.ess_target
    if tau != "ess":
        if target != "noise":
            raise ValueError(
                f"weights.ess_target is {target} and weights.tau is {tau}, which keeps to no target: leave "
                "weights.ess_target out, or set weights.tau to ess."
            )
        return
    for name in ("gamma", "experimental.rejected_exponent", "experimental.selection"):
        value = attrgetter(name)(weights)
        if value not in (0, "none") and (isinstance(target, str) or target >= EVEN):
            raise ValueError(
                f"weights.{name} is {value} and weights.ess_target is {target}, which can make all weights 1 whatever "
                f"the {name}: set weights.ess_target to a number below {EVEN}, or weights.tau to a number."
            )
