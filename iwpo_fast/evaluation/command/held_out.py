"""What a model makes of held-out pairs: accuracy, calibration, and margins by cluster and by score."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from iwpo_fast.evaluation.bootstrap import Estimate, Float64s, Ints, Statistic, mean_of
from iwpo_fast.evaluation.calibration_error import calibration_error, error_by_chance
from iwpo_fast.evaluation.command.subject import Logps
from iwpo_fast.evaluation.preference import wins, without_rounding

BUCKETS = 4


class Estimator(Protocol):
    """`bootstrap` with its resamples and seed."""

    def __call__(self, statistic: Statistic, prompt: Ints, *, centred: bool = False) -> Estimate:
        """The estimate of a statistic, given the prompt of each value."""


Report = dict[str, Any]


class HeldOut(NamedTuple):
    """N held-out pairs.

    Attributes:
        prompt: int64 [N], numbered from 0.
        gap: float64 [N], score of the chosen minus that of the rejected completion, NaN where unknown; or None.
        cluster: int64 [N], -1 where unknown; or None.
    """

    prompt: Ints
    gap: Float64s | None
    cluster: Ints | None


def held_out_report(pairs: HeldOut, model: Logps, against: Logps | None, beta: float, estimate: Estimator) -> Report:
    """Accuracies, margins and calibration error of the pairs that both models can score.

    Args:
        against: of the reference; without it margins are differences of mean log-probs, in nats a token, and there is
            no calibration, because they are no log-odds.
        beta: of the log-ratio.
    """
    mean = _difference(model.means, model.means)
    ratio = None if against is None else beta * _difference(model.sums - against.sums, model.sums)
    margins = mean if ratio is None else ratio
    kept = np.flatnonzero(np.isfinite(margins))
    if not len(kept):
        raise ValueError("No held-out pair fits into max_length: raise it, or give shorter pairs.")
    prompt = pairs.prompt[kept]
    report: Report = {
        "pairs": len(kept),
        "prompts": len(np.unique(prompt)),
        "left_out": len(margins) - len(kept),
        "mean_log_prob": {"model": _of(mean[kept], prompt, estimate)},
    }
    if against is not None and ratio is not None:
        other = _difference(against.means, against.means)[kept]
        gain = wins(mean[kept]) - wins(other)
        report["mean_log_prob"] |= {
            "against": _of(other, prompt, estimate),
            "difference": estimate(mean_of(gain), prompt),
        }
        report["log_ratio"] = _of(ratio[kept], prompt, estimate) | {
            "calibration_error": estimate(calibration_error(ratio[kept]), prompt, centred=True),
            "by_chance": error_by_chance(ratio[kept], seed=0),
        }
    groups = {"by_cluster": _by_cluster(pairs, kept), "by_score": _by_score(pairs, kept)}
    for name, masks in groups.items():
        report[name] = {label: _of(margins[rows], pairs.prompt[rows], estimate) for label, rows in masks.items()}
    return report


def _difference(scores: Float64s, logps: Float64s) -> Float64s:
    """Of the two of each row [N, 2], 0 where it may be the rounding of the log-probs [N, 2] that they are made of."""
    return without_rounding(scores[:, 0] - scores[:, 1], np.abs(logps).sum(1))


def _of(margins: Float64s, prompt: Ints, estimate: Estimator) -> Report:
    return {
        "pairs": len(margins),
        "accuracy": estimate(mean_of(wins(margins)), prompt),
        "margin": estimate(mean_of(margins), prompt),
    }


def _by_cluster(pairs: HeldOut, kept: Ints) -> dict[str, Ints]:
    if pairs.cluster is None:
        return {}
    own = pairs.cluster[kept]
    return {str(cluster): kept[own == cluster] for cluster in np.unique(own[own >= 0])}


def _by_score(pairs: HeldOut, kept: Ints) -> dict[str, Ints]:
    """Buckets of equally many pairs by the gap of their scores, the smallest gaps first."""
    if pairs.gap is None:
        return {}
    rows = kept[np.isfinite(pairs.gap[kept])]
    gaps = pairs.gap[rows]
    if not len(rows):
        return {}
    edges = np.unique(np.quantile(gaps, np.arange(1, BUCKETS) / BUCKETS))
    bucket = np.searchsorted(edges, gaps, side="right")
    parts = [rows[bucket == which] for which in np.unique(bucket)]
    return {f"{pairs.gap[part].min():+.2f} to {pairs.gap[part].max():+.2f}": part for part in parts}
