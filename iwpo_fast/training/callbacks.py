"""What people who import us may do while a run goes on: four functions, called by every process of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.training.job import Job
from iwpo_fast.training.moving_reference import MovingReference


class Callback(Protocol):
    """Functions that `train` calls. A class that inherits from this one needs only those that it is about.

    All processes of a job call theirs, so that they may run the policy; one that does so has to be on all of them. What
    one of them raises ends the run, as any other error does; what they change in the policy, or draw from PyTorch's
    random numbers between two steps, is theirs to answer for: a resumed run repeats its numbers only if they do.
    """

    def on_begin(self, run: Run) -> None:
        """Before the first evaluation; `run.state.step` is more than 0 where a run goes on."""
        return

    def on_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        """After every step that has a line in `metrics.jsonl` (`log.every`), with that line."""
        return

    def on_evaluation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """After every evaluation on the held-out pairs, with its line; the policy is in evaluation mode."""
        return

    def on_end(self, run: Run) -> None:
        """When the model is saved, in `run.folder / "model"`."""
        return


@dataclass
class Run:
    """A training while it goes on.

    Attributes:
        job: configuration, processes, policy and pairs.
        state: where it stands.
        folder: its `output_dir`.
        moving: the reference, where it moves.
        is_watched: whether a process of the job has callbacks; known from `begun` on.
    """

    job: Job
    state: TrainState
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    moving: MovingReference | None = None
    callbacks: Sequence[Callback] = ()
    is_watched: bool = field(default=False, init=False)
    _asked_to_stop: bool = field(default=False, init=False, repr=False)

    def stop(self) -> None:
        """End the run with this step, with an evaluation, a checkpoint and a saved model as after the last one.

        It is enough if one process asks; `on_step` and `on_evaluation` may.
        """
        self._asked_to_stop = True

    def begun(self) -> None:
        # Agreed, because processes that wait for one another would not if some of them had no callbacks.
        self.is_watched = bool(self.job.world.largest(bool(self.callbacks)))
        for callback in self.callbacks:
            callback.on_begin(self)
        if self.job.world.largest(self._asked_to_stop):
            raise ValueError(
                "on_begin of a callback has called run.stop(), before there is a step to end with: call it in on_step "
                "or on_evaluation, or raise an error of your own."
            )

    def stepped(self, metrics: Mapping[str, float]) -> None:
        for callback in self.callbacks:
            callback.on_step(self, metrics)
        self._agree()

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        for callback in self.callbacks:
            callback.on_evaluation(self, metrics)
        self._agree()

    def ended(self) -> None:
        for callback in self.callbacks:
            callback.on_end(self)

    def _agree(self) -> None:
        """Note, on all ranks, whether a callback of one of them has asked to stop."""
        if self.is_watched and self.job.world.largest(self._asked_to_stop):
            self.state.stopped_early = True
