"""What a training reports and keeps, a reference that moves with it, and a KL on what the policy draws itself."""

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


@dataclass
class SampledKLConfig:
    """KL(π ‖ π_ref) on completions that the policy draws itself while it trains, beside any objective (SPO, after arXiv
    2405.00747; docs/systems/spo.md).

    Args:
        coefficient: Factor of the KL of a completion, in nats, in the loss.
        every: Optimiser steps from one draw to the next.
        samples: Completions of a draw.
        per_step: Completions whose KL a step reads, in turn, of those that were drawn last.
        max_new_tokens: A completion that has not ended by then is cut. It must leave room for a prompt in
            `data.max_length`.
        prompts: A file, or a list of files, with a column `prompt`, whatever else is in it; null takes the prompts of
            the pairs.
    """

    coefficient: Annotated[float, POSITIVE] = 0.1
    every: Annotated[int, POSITIVE] = 16
    samples: Annotated[int, POSITIVE] = 64
    per_step: Annotated[int, POSITIVE] = 16
    max_new_tokens: Annotated[int, POSITIVE] = 128
    prompts: str | list[str] | None = None
