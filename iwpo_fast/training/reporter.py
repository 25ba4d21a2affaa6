"""What a run says while it runs: step-lines, a progress bar, `metrics.jsonl` and the trackers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.progress import progress, span
from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.training.job import Job
from iwpo_fast.training.metrics import PreferenceMetrics, memory_metrics, step_metrics
from iwpo_fast.training.trackers import Tracker

LARGE, SMALL = 1e5, 0.01
"""Losses from which on, and margins below which, a line shows the first digits."""

ROUNDING = 2e-6
"""Margins up to this are 0 in a line."""


class Reported(NamedTuple):
    """The metrics of a step's line, empty where none is due; the first bad step since the last, counted from 1."""

    line: Mapping[str, float]
    bad_step: int | None


class Reporter:
    """Collects what happens between log lines. Only rank 0 shows it; all ranks take part in the sums.

    Args:
        trackers: where metrics go; empty on all ranks but the first.
        truncated: fraction of the pairs that were cut, which is logged with every line.
        metrics: sums over the pairs that steps have seen.
    """

    def __init__(
        self,
        job: Job,
        trackers: Sequence[Tracker],
        state: TrainState,
        metrics: PreferenceMetrics,
        *,
        truncated: float,
    ) -> None:
        self._metrics = metrics
        self._trackers = trackers
        self._job = job
        self._world = job.world
        self._truncated = truncated
        self._bar = progress("training", job.steps, "step", initial=state.step, shown=job.world.is_main)
        self._restart(state)

    def say(self, line: str) -> None:
        if self._world.is_main:
            self._bar.write(line)

    def start_clock(self) -> None:
        """Begin to time steps; called again after anything that is not a step."""
        self._mark = time.perf_counter()

    def step(self, state: TrainState, weights: np.ndarray, rate: float, grad_norm: Tensor, *, due: bool) -> Reported:
        """Report an optimiser step; waits for the device only if a line is `due`.

        Returns:
            The line, and the first step since the last one whose loss or gradient was not finite.
        """
        self._bar.update()
        self._weights.append(weights)
        self._grad_norms.append(grad_norm)
        metrics = self._metrics.compute(self._world) if due else {}
        self._seconds += time.perf_counter() - self._mark
        self.start_clock()
        if not due:
            return Reported({}, None)
        grad_norms = torch.stack(self._grad_norms).tolist()
        metrics |= step_metrics(
            np.concatenate(self._weights),
            grad_norm=grad_norms[-1],
            learning_rate=rate,
            epoch=state.step / self._job.steps_per_epoch,
            truncated_frac=self._truncated,
            tokens_per_sec=(state.tokens - self._tokens) / self._seconds,
        )
        metrics |= memory_metrics(self._world.device)
        self._log(metrics, state)
        left = self._seconds / len(self._weights) * (self._job.steps - state.step)
        self.say(step_line(metrics, state.step, self._job.steps, left))
        first = state.step - len(grad_norms) + 1
        bad = [first + place for place, norm in enumerate(grad_norms) if not math.isfinite(norm)]
        if not math.isfinite(metrics["loss"]):
            bad.append(state.step)
        self._restart(state)
        return Reported(metrics, bad[0] if bad else None)

    def evaluation(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._log(metrics, state)
        compared = "  ".join(_compared(metrics, "eval_", with_margin=True))
        self.say(f"step {state.step}/{self._job.steps} held out  loss {_loss(metrics['eval_loss'])}  {compared}")

    def close(self) -> None:
        self._bar.close()
        for tracker in self._trackers:
            tracker.close()

    def _log(self, metrics: Mapping[str, float], state: TrainState) -> None:
        for tracker in self._trackers:
            tracker.log(metrics, state.step)

    def _restart(self, state: TrainState) -> None:
        self._tokens = state.tokens
        self._seconds = 0.0
        self._weights: list[np.ndarray] = []
        self._grad_norms: list[Tensor] = []
        self.start_clock()


def step_line(metrics: Mapping[str, float], step: int, steps: int, left: float) -> str:
    """What a terminal of 80 columns shows of a step; `metrics.jsonl` has the rest.

    Args:
        left: seconds that the other steps will take.
    """
    weighted = metrics["weights/ess_frac"] < 1 - 1e-9 or metrics["weights/max"] != 1
    second = f", {_loss(metrics['loss/unweighted'])} unweighted" if weighted else ""
    compared = "  ".join(_compared(metrics, with_margin=not weighted))
    return f"step {step}/{steps}  loss {_loss(metrics['loss'])}{second}  {compared}  {span(left)} left"


def _loss(loss: float) -> str:
    """Losses with targets over beta, such as `gpo`, are as large as millions."""
    return f"{loss:.4f}" if abs(loss) < LARGE else f"{loss:.3e}"


def _margin(margin: float) -> str:
    """With a small beta margins are small, but not as small as what rounding leaves of 0."""
    return f"{margin:+.2g}" if ROUNDING < abs(margin) < SMALL else f"{margin:+z.3f}"


def _compared(metrics: Mapping[str, float], prefix: str = "", *, with_margin: bool) -> Sequence[str]:
    """What a line says of the two completions of pairs, or of the two kinds of single ones."""
    rewards = {name: metrics.get(f"{prefix}rewards/{name}") for name in ("accuracies", "margins", "chosen", "rejected")}
    if rewards["accuracies"] is not None:
        margin = [f"margin {_margin(metrics[f'{prefix}rewards/margins'])}"] if with_margin else []
        return [f"accuracy {rewards['accuracies']:.3f}", *margin]
    sides = {"desirable": rewards["chosen"], "undesirable": rewards["rejected"]}
    return [f"{side} {reward:+z.3f}" for side, reward in sides.items() if reward is not None]
