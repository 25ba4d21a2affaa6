"""Held-out accuracy of the trained policy, over all pairs and in each cluster, with the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from iwpo_fast.config import RunConfig
from iwpo_fast.data import Pairs
from iwpo_fast.evaluation.preference import accuracy_of_prompts, accuracy_words, wins
from iwpo_fast.files import save_json, save_tensors, written_aside
from iwpo_fast.importance.effects import Effects, effect_lines
from iwpo_fast.models.sharding import in_lockstep
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result, sections
from iwpo_fast.pipeline.rows_file import effects_in
from iwpo_fast.pipeline.stages import reference
from iwpo_fast.rewards import Clusters
from iwpo_fast.training.checkpoint import checkpoints, load_weights
from iwpo_fast.training.held_out_margins import Margins, kept_margins
from iwpo_fast.training.job import Job, batches_ahead
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.training.summary import TrainSummary

WHAT = "accuracy on held-out pairs"
NEEDS = ("prepare", "cluster", "train")


def settings(config: RunConfig) -> dict[str, Any]:
    return reference.settings(config) | sections(config, "objective") | {"margins": "before and after"}


def outputs(folder: PipelineFolder) -> list[Path]:
    # The comparison of arms, which is made later, goes with the numbers that it compares.
    return [folder.evaluation, folder.report, folder.margins, folder.arms_table, folder.arms_report]


Row = dict[str, Any]
"""`pairs`, `accuracy` with its interval `low` and `high`, which are None where there is none, and `margin`; `prompts`
where there are fewer of them than pairs."""
Measured = dict[str, np.ndarray]
"""Of the held-out pairs `margin`, after training, and `before`, float64 [P]; `cluster` and `prompt`, int64 [P]."""


def on_all_ranks(job: PipelineJob) -> Measured | None:
    """What the policy says of the held-out pairs; None if there are none."""
    held_out = job.load_held_out()
    if held_out is None:
        return None
    features = job.features(held_out)
    prompt = features.table.prompt
    cluster = Clusters.load(job.folder.clusters).assign(features.prompt)[prompt]
    before, after = _margins(job, held_out)
    return {"margin": after, "before": before, "cluster": cluster, "prompt": prompt}


def run(job: PipelineJob, measured: Measured | None) -> Result:
    if measured is None:
        print("no pairs are held out, so there is nothing to evaluate on")
        return {}
    margins, cluster = measured["margin"], measured["cluster"]
    groups = {"all": np.ones(len(margins), dtype=bool)} | {str(k): cluster == k for k in np.unique(cluster)}
    table = {name: _row(margins[inside], measured["prompt"][inside]) for name, inside in groups.items()}
    save_tensors(job.folder.margins, {name: torch.from_numpy(values) for name, values in measured.items()})
    save_json(job.folder.evaluation, table)
    with written_aside(job.folder.report) as aside:
        aside.write_text(_markdown(table, effects_in(job.folder.weighted)), encoding="utf-8")
    overall = table["all"]
    of = accuracy_words(overall["accuracy"], overall["pairs"], overall.get("prompts", 0))
    print(f"held-out accuracy {overall['accuracy']:.3f} ({of}); by cluster in {job.folder.report}")
    return table


def _margins(job: PipelineJob, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Two of float64 [P]: reward of the chosen minus reward of the rejected completion, before training and after.

    Where rewards are relative to a reference, it is the policy before training, and the margins before are 0.
    """
    before: np.ndarray | None = None
    after = _found_in_training(job, pairs, "after")
    if PreferenceLoss(job.config.objective).mixture.reports_log_ratios:
        before = np.zeros(len(pairs))
    else:
        before = _found_in_training(job, pairs, "before")
    return _measured(job, pairs) if before is None or after is None else (before, after)


def _found_in_training(job: PipelineJob, pairs: Pairs, when: Literal["before", "after"]) -> np.ndarray | None:
    """The margins float64 [P] that an evaluation of the training found; None where there is none of this quantity.

    Training does not evaluate an objective that reads rewards, because held-out pairs have none, and where the
    reference moves its margins are relative to where that was last.
    """
    if job.config.reference_sync is not None:
        return None

    def read() -> np.ndarray | None:
        folder = RunFolder(job.folder.training)
        evaluation = getattr(TrainSummary.load(folder.summary), when)
        kept = kept_margins(folder.margins, int(evaluation["step"]), pairs) if evaluation else None
        return None if kept is None else kept.settled()

    return job.world.from_main(read() if job.world.is_main else None)


def _measured(job: PipelineJob, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """What `_margins` gives, by passes of the policy before training and after."""
    trained = RunFolder(job.folder.training).checkpoints
    if not checkpoints(trained):
        raise ValueError(f"{trained} holds no checkpoint to evaluate: run again with --from train.")
    loss, policy = PreferenceLoss(job.config.objective), job.load_policy()
    loss.equip(policy, job.model, job.config.data)
    policy.eval()
    pairs = job.with_reference(pairs) if loss.mixture.uses_reference else pairs
    before = np.zeros(len(pairs)) if loss.mixture.reports_log_ratios else _pass(job, loss, pairs)
    load_weights(trained, policy.trainable_parameters(), job.world)
    return before, _pass(job, loss, pairs)


def _pass(job: PipelineJob, loss: PreferenceLoss, pairs: Pairs) -> np.ndarray:
    """The margins float64 [P] of the policy as it is."""
    policy, world = job.load_policy(), job.world
    margins = Margins.empty(pairs, world.device)
    batches = batches_ahead(Job(job.config, world, policy, loss, pairs), [np.arange(len(pairs))])
    with torch.no_grad():
        for _, batch in in_lockstep(policy, batches):
            margins.put(batch.rows, loss.margins(loss.token_logps(policy, batch), batch))
    return Margins(*map(world.sum_, margins)).settled()


def _row(margins: np.ndarray, prompt: np.ndarray) -> Row:
    accuracy, low, high = accuracy_of_prompts(wins(margins), prompt)
    row: Row = {"pairs": len(margins), "accuracy": accuracy, "margin": float(margins.mean())}
    if (prompts := len(np.unique(prompt))) < len(margins):
        row["prompts"] = prompts
    return row | ({"low": None, "high": None} if math.isnan(low) else {"low": low, "high": high})


def _interval(*, low: float | None, high: float | None, **_: float | None) -> str:
    return "" if low is None else f"{low:.3f} to {high:.3f}"


def _markdown(table: dict[str, Row], effects: Effects) -> str:
    row = "| {} | {pairs:,} | {accuracy:.3f} | {interval} | {margin:+z.3f} |"
    lines = ["| cluster | pairs | accuracy | 95 % interval | margin |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [row.format(name, interval=_interval(**numbers), **numbers) for name, numbers in table.items()]
    done = ["", "# What was done to the training pairs", "", *(f"- {line}" for line in effect_lines(effects))]
    return "\n".join(["# Held-out pairs", "", *lines, *done]) + "\n"
