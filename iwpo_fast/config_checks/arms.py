"""Rules of parts of the method that are trained by themselves."""

from __future__ import annotations

from iwpo_fast.config import RunConfig
from iwpo_fast.config_checks.held_out import holds_nothing_out
from iwpo_fast.objectives import Mixture


def check_arms(config: RunConfig) -> None:
    """Refuse arms that could not be trained, or would have nothing to be compared with."""
    arms = config.arms
    if not arms:
        return
    if len(set(arms)) < len(arms):
        raise ValueError(f"arms names {', '.join(arms)}, one of them twice: name each once.")
    if "dpo" not in arms:
        raise ValueError(f"arms names {', '.join(arms)}, and all are compared with dpo: name dpo too.")
    if holds_nothing_out(config):
        raise ValueError(
            "arms are compared on held-out pairs, and data.eval_fraction is 0: set it to more, name data.eval_path, or "
            "leave arms out."
        )
    softens = [name for name in arms if name in ("labels", "both")]
    if softens and not (Mixture.of(config.objective).smooths_labels and config.rewards.calibration):
        raise ValueError(
            f"arms names {' and '.join(softens)}, which need calibrated rewards and an objective that can smooth "
            f"labels, as {config.objective.name} with rewards.calibration {config.rewards.calibration} is not: leave "
            "them out."
        )
