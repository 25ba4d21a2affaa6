"""Rules of estimates."""

from __future__ import annotations

from iwpo_fast.config import TrainConfig
from iwpo_fast.config_checks.unread import refuse_unread


def check_plan(config: TrainConfig) -> None:
    plan = config.plan
    if plan.on is None:
        refuse_unread(plan, "plan", ["gpus", "utilisation"], "plan.on is null, which estimates nothing", "set plan.on")
        return
    if not config.dry_run:
        raise ValueError(
            f"plan.on is {plan.on} and dry_run is false, and only a dry run estimates: set dry_run to true, or leave "
            "plan.on out."
        )
    worst, best = plan.utilisation
    if worst > best:
        raise ValueError(f"plan.utilisation is from {worst} to {best}: give the worse share first, such as [0.3, 0.5].")
