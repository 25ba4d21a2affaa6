"""The numbers of a finished run, kept beside its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from iwpo_fast.checksums import Damaged
from iwpo_fast.data.unique import digests
from iwpo_fast.evaluation.preference import accuracy_words
from iwpo_fast.files import load_record, save_record
from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.training.job import Job
from iwpo_fast.training.metrics import as_json, from_json
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.words import several


@dataclass(frozen=True)
class TrainSummary:
    """Numbers of a finished run.

    Attributes:
        output_dir: folder of the run; the model is in `output_dir/model`.
        steps: optimiser steps.
        eval_pairs: held-out pairs or rows of one completion, 0 if there are none.
        before, after: metrics on the held-out pairs, empty if there are none. `before` is empty too where the line of
            the evaluation before the first step is lost.
        eval_prompts: of the held-out pairs, where there are fewer of them; else 0.
    """

    output_dir: str
    steps: int
    eval_pairs: int
    before: dict[str, float]
    after: dict[str, float]
    eval_prompts: int = 0

    @classmethod
    def load(cls, path: Path) -> TrainSummary:
        """What `save` wrote.

        Raises:
            Damaged: the file holds something else.
        """
        values = load_record(path)
        try:
            return cls(**values | {name: from_json(values[name]) for name in ("before", "after")})
        except (KeyError, TypeError, AttributeError) as error:
            raise Damaged(path) from error

    def as_json(self) -> dict[str, Any]:
        """The numbers as JSON can hold them."""
        values = asdict(self) | {"before": as_json(self.before), "after": as_json(self.after)}
        if not self.eval_prompts:
            del values["eval_prompts"]  # as before they were counted
        return values

    def save(self, path: Path) -> None:
        save_record(path, self.as_json())

    def lines(self) -> list[str]:
        lines = [f"done: {several(self.steps, 'step')}; model, metrics and checkpoints are in {self.output_dir}"]
        if self.after:
            before = f"{self.before['eval_loss']:.4f} before and " if self.before else ""
            lines.append(f"held-out {self._compared()}, loss {before}{self.after['eval_loss']:.4f} after")
        return lines

    def _compared(self) -> str:
        accuracy = self.after.get("eval_rewards/accuracies")
        if accuracy is None:
            area = "" if "eval_rewards/auc" not in self.after else f", AUC {self.after['eval_rewards/auc']:.3f}"
            return f"rewards {rewards_of_kinds(self.after)}{area} ({self.eval_pairs} rows)"
        return f"accuracy {accuracy:.3f} ({accuracy_words(accuracy, self.eval_pairs, self.eval_prompts)})"


def rewards_of_kinds(metrics: Mapping[str, float]) -> str:
    """Mean rewards of held-out completions that are desirable or not, of the kinds that there are."""
    kinds = {"desirable": "eval_rewards/chosen", "undesirable": "eval_rewards/rejected"}
    return " and ".join(f"{kind} {metrics[name]:+.3f}" for kind, name in kinds.items() if name in metrics)


def _fewer_prompts(job: Job) -> int:
    prompts = 0 if job.held_out is None else len(set(digests(job.held_out.prompt)))
    return 0 if job.held_out is None or prompts == len(job.held_out) else prompts


def summarise(folder: RunFolder, job: Job, state: TrainState) -> TrainSummary:
    """Read the evaluations before the first step, and of the weights that are saved, from the run's metrics."""
    logged = [from_json(json.loads(line)) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]
    evaluations = [metrics for metrics in logged if "eval_loss" in metrics]
    if state.best is not None:
        evaluations = [metrics for metrics in evaluations if metrics["step"] in (0, state.best.step)]
    return TrainSummary(
        output_dir=str(folder.path),
        steps=state.step,
        eval_pairs=0 if job.held_out is None else len(job.held_out),
        before=next((metrics for metrics in evaluations if metrics["step"] == 0), {}),
        after=evaluations[-1] if evaluations else {},
        eval_prompts=_fewer_prompts(job),
    )
