"""The trained policy on held-out pairs, over all and in each cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from iwpo_fast.data import Pairs
from iwpo_fast.evaluation.preference import preference_accuracy
from iwpo_fast.files import save_json, written_aside
from iwpo_fast.models.sharding import taking_turns
from iwpo_fast.pipeline.context import Context
from iwpo_fast.training.batches import batches_ahead
from iwpo_fast.training.checkpoint import checkpoints, load_weights
from iwpo_fast.training.job import Job
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.training.run_folder import RunFolder


def evaluate_held_out(context: Context, pairs: Pairs, cluster: np.ndarray) -> dict[str, Any]:
    """Accuracy of the implicit reward on the pairs [P] of each cluster [P]; written as JSON and as Markdown."""
    margins = _margins(context, pairs)
    correct = (margins > 0) + 0.5 * (margins == 0)
    groups = {"all": np.ones(len(pairs), dtype=bool)} | {str(k): cluster == k for k in np.unique(cluster)}
    table = {name: _row(correct[inside], margins[inside]) for name, inside in groups.items()}
    if context.world.is_main:
        save_json(context.folder.evaluation, table)
        with written_aside(context.folder.report) as aside:
            aside.write_text(_markdown(table), encoding="utf-8")
        overall = table["all"]
        print(
            f"held-out accuracy {overall['accuracy']:.3f} (95 % interval {overall['low']:.3f} to "
            f"{overall['high']:.3f}, {overall['pairs']} pairs); by cluster in {context.folder.report}"
        )
    return table


def _margins(context: Context, pairs: Pairs) -> np.ndarray:
    """float64 [P]: reward of the chosen minus that of the rejected completion, in the trained policy's own scale."""
    trained = RunFolder(context.folder.training).checkpoints
    if not checkpoints(trained):
        raise ValueError(f"{trained} holds no checkpoint to evaluate: run again with --from train.")
    loss, policy, world = PreferenceLoss(context.config.objective), context.policy, context.world
    reference = context.reference_of(pairs) if loss.mixture.uses_reference else None
    load_weights(trained, policy.trainable_parameters())
    policy.eval()
    margins = torch.zeros(len(pairs), dtype=torch.float64, device=world.device)
    batches = batches_ahead(Job(context.config, world, policy, loss, pairs, reference), [np.arange(len(pairs))])
    with torch.no_grad():
        for _, batch in taking_turns(policy, batches):
            chosen, rejected = loss.rewards(loss.token_logps(policy, batch), batch)
            margins[batch.rows] = chosen - rejected
    return world.sum_(margins).cpu().numpy()


def _row(correct: np.ndarray, margins: np.ndarray) -> dict[str, float]:
    accuracy, low, high = preference_accuracy(float(correct.sum()), len(correct))
    return {"pairs": len(correct), "accuracy": accuracy, "low": low, "high": high, "margin": float(margins.mean())}


def _markdown(table: dict[str, dict[str, float]]) -> str:
    cells = [
        (
            name,
            f"{row['pairs']:,}",
            f"{row['accuracy']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            f"{row['margin']:+.3f}",
        )
        for name, row in table.items()
    ]
    header = [("cluster", "pairs", "accuracy", "95 % interval", "margin"), ("---", "---:", "---:", "---:", "---:")]
    lines = [f"| {' | '.join(row)} |" for row in (*header, *cells)]
    return "\n".join(["# Held-out pairs", "", *lines]) + "\n"
