"""Which evaluation of a run was its best one, and whether enough have come since."""

from __future__ import annotations

from collections.abc import Mapping

from iwpo_fast.config import CheckpointConfig, TrainConfig
from iwpo_fast.data import Pairs
from iwpo_fast.training.checkpoint import Best, TrainState

RISE = ("eval_rewards/accuracies", "eval_rewards/margins")
"""Metrics of which more is better; of the others less is."""


def note_evaluation(state: TrainState, metrics: Mapping[str, float], config: CheckpointConfig) -> None:
    """Keep in `state` the best evaluation, and whether the run's patience is at its end.

    The evaluation before the first step does not count, because there is nothing yet to be saved. One that is as good
    as the best so far is not better, and one that is not a number is never.
    """
    if config.best is None or state.step == 0:
        return
    value, best = metrics[config.best], state.best
    if best is None and value != value:
        return
    if best is None or (value > best.value if config.best in RISE else value < best.value):
        state.best = Best(state.step, value)
    elif config.patience is not None and best.waited + 1 >= config.patience:
        state.best, state.stopped_early = best._replace(waited=best.waited + 1), True
    else:
        state.best = best._replace(waited=best.waited + 1)


def check_evaluated(config: TrainConfig, held_out: Pairs | None, source: str) -> None:
    """Raise ValueError if evaluations are to be more than numbers, and no pair was left to evaluate on, or none that
    has what the best one is chosen by."""
    for setting, value in {"checkpoint.best": config.checkpoint.best, "log.samples": config.log.samples}.items():
        if value and not held_out:
            raise ValueError(
                f"{setting} is {value}, but no pair of {source} is held out: raise data.eval_fraction, name "
                f"data.eval_path, or leave {setting} out."
            )

    best = config.checkpoint.best
    if best not in RISE or held_out is None or held_out.present is None:
        return
    if best == RISE[0] or not held_out.present.any(0).all():
        raise ValueError(
            f"checkpoint.best is {best}, which {source} with rows of one completion does not have: set "
            "checkpoint.best to eval_loss."
        )


def best_lines(state: TrainState, config: CheckpointConfig) -> list[str]:
    """What is saved at the end, and why the run ended there, for people."""
    best = state.best
    if best is None:
        return []
    impatient = state.stopped_early and config.patience is not None and best.waited >= config.patience
    why = [f"stopped after step {state.step}, because {best.waited} evaluations brought no better {config.best}"]
    saved = f"the model of step {best.step} is saved, which has the best {config.best}: {best.value:.4f}"
    return [*(why if impatient else []), saved]
