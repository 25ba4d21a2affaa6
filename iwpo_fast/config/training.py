"""What a training reports and keeps, and a reference that moves with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from iwpo_fast.limits import NOT_NEGATIVE, POSITIVE, SHARE


@dataclass
class LogConfig:
    """What is reported, and how often.

    Args:
        every: Optimiser steps between step-lines.
        eval_every: Optimiser steps between evaluations; null evaluates before the first and after the last step.
        trackers: Where metrics go, in addition to `metrics.jsonl`.
        project: Project name for wandb and trackio.
        samples: Held-out prompts that are answered at every evaluation, in `samples/step-N.jsonl`; the first answer is
            shown. The most probable token is taken each time.
        sample_tokens: Tokens of such an answer at most.
    """

    every: Annotated[int, POSITIVE] = 10
    eval_every: Annotated[int, POSITIVE] | None = None
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = field(default_factory=list)
    project: str = "iwpo_fast"
    samples: Annotated[int, NOT_NEGATIVE] = 0
    sample_tokens: Annotated[int, POSITIVE] = 128


@dataclass
class CheckpointConfig:
    """When the state is saved, and as what the final model.

    Args:
        every: Optimiser steps between checkpoints; null saves only the final one.
        keep: Number of newest checkpoints kept.
        dtype: Type in which the final model is saved: `base` is the one that the model given says in its config.json,
            and leaves an adapter in float32. Training and checkpoints keep float32 either way.
        best: Save the model of the evaluation that was best by this metric of `metrics.jsonl`, and not the last one.
            Every evaluation (`log.eval_every`) has a checkpoint then, and the best is kept beside the newest.
        patience: End the run after so many evaluations in a row that were not better than the best; null ends it after
            the last step alone.
    """

    every: Annotated[int, POSITIVE] | None = 100
    keep: Annotated[int, POSITIVE] = 2
    dtype: Literal["base", "float32", "bfloat16"] = "base"
    best: Literal["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"] | None = None
    patience: Annotated[int, POSITIVE] | None = None


@dataclass
class ReferenceSyncConfig:
    """A reference that follows the policy (TR-DPO, arXiv 2404.09656).

    Args:
        alpha: Share of the policy in what the reference becomes; the rest is what it was. An adapter takes 1 alone.
        steps: Optimiser steps between two moves.
    """

    alpha: Annotated[float, SHARE] = 0.6
    steps: Annotated[int, POSITIVE] = 512
