"""Held-out accuracy of the trained policy, over all pairs and in each cluster, with the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from iwpo_fast.config import RunConfig
from iwpo_fast.data import Pairs
from iwpo_fast.evaluation.preference import preference_accuracy, wins
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


def on_all_ranks(job: PipelineJob) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The margin [P] before training and after, and the cluster [P], of the held-out pairs; None if there are none."""
    held_out = job.load_held_out()
    if held_out is None:
        return None
    features = job.features(held_out)
    cluster = Clusters.load(job.folder.clusters).assign(features.prompt)[features.table.prompt]
    return *_margins(job, held_out), cluster


def run(job: PipelineJob, measured: tuple[np.ndarray, np.ndarray, np.ndarray] | None) -> Result:
    if measured is None:
        print("no pairs are held out, so there is nothing to evaluate on")
        return {}
    before, margins, cluster = measured
    correct = wins(margins)
    groups = {"all": np.ones(len(margins), dtype=bool)} | {str(k): cluster == k for k in np.unique(cluster)}
    table = {name: _row(correct[inside], margins[inside]) for name, inside in groups.items()}
    kept = {"margin": margins, "before": before, "cluster": cluster}
    save_tensors(job.folder.margins, {name: torch.from_numpy(values) for name, values in kept.items()})
    save_json(job.folder.evaluation, table)
    with written_aside(job.folder.report) as aside:
        aside.write_text(_markdown(table, effects_in(job.folder.weighted)), encoding="utf-8")
    overall = table["all"]
    print(
        f"held-out accuracy {overall['accuracy']:.3f} (95 % interval {overall['low']:.3f} to "
        f"{overall['high']:.3f}, {overall['pairs']} pairs); by cluster in {job.folder.report}"
    )
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


def _row(correct: np.ndarray, margins: np.ndarray) -> dict[str, float]:
    accuracy, low, high = preference_accuracy(float(correct.sum()), len(correct))
    return {"pairs": len(correct), "accuracy": accuracy, "low": low, "high": high, "margin": float(margins.mean())}


def _markdown(table: dict[str, dict[str, float]], effects: Effects) -> str:
    row = "| {} | {pairs:,} | {accuracy:.3f} | {low:.3f} to {high:.3f} | {margin:+.3f} |"
    lines = ["| cluster | pairs | accuracy | 95 % interval | margin |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [row.format(name, **numbers) for name, numbers in table.items()]
    done = ["", "# What was done to the training pairs", "", *(f"- {line}" for line in effect_lines(effects))]
    return "\n".join(["# Held-out pairs", "", *lines, *done]) + "\n"
