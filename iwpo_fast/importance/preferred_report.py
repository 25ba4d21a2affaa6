"""What preferred pairs look like: among how many candidates importance is shared, and which labels it contradicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iwpo_fast.files import written_aside
from iwpo_fast.importance.preferred import Preferred, effective_candidates
from iwpo_fast.importance.report import one_line

if TYPE_CHECKING:
    from iwpo_fast.rewards import PairTable

BINS = 40
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Texts = Callable[[int, int], dict[str, str]]
"""The texts of two responses to one prompt."""


def preferred_report(
    preferred: Preferred, table: PairTable, label_smoothing: np.ndarray, texts: Texts, *, most: int = 5
) -> dict[str, Any]:
    """Summary of D drawn pairs, in values that JSON can hold.

    Args:
        table: the P labelled pairs among the same responses.
        label_smoothing: float64 [P], ε of the labelled pairs.
        most: how many of the most surprising pairs to list.

    Returns:
        `pairs`: D. `tau`: temperature of the target. `effective`: quantiles over prompts of 1/Σq². `best_not_chosen`:
        share of prompts whose most important candidate is the chosen one of no labelled pair, and
        `importance_not_chosen`, the same in expectation. `against_label`: share of the drawn pairs that are a labelled
        pair turned round. `doubted`: the labelled pairs of the largest ε above 0. `beaten`: drawn pairs, each once,
        whose opponent is a labelled chosen response, by the largest gap above 0. `importance_counts`,
        `importance_edges`, `effective_counts`, `effective_edges`: histograms of q and of 1/Σq².
    """
    q, prompt_of = preferred.q, preferred.prompt_of
    is_chosen = np.zeros(len(q), dtype=bool)
    is_chosen[table.chosen] = True
    effective = effective_candidates(q, prompt_of)
    by_importance = np.lexsort((-q, prompt_of))
    best = by_importance[np.unique(prompt_of[by_importance], return_index=True)[1]]
    importance_counts, importance_edges = np.histogram(q, bins=BINS, range=(0.0, 1.0))
    effective_counts, effective_edges = np.histogram(effective, bins=BINS, range=(1.0, max(2.0, effective.max())))
    return {
        "pairs": len(preferred.weight),
        "tau": preferred.tau if np.isfinite(preferred.tau) else str(preferred.tau),
        "effective": {str(level): float(np.quantile(effective, level)) for level in QUANTILES},
        "best_not_chosen": float(np.mean(~is_chosen[best])),
        "importance_not_chosen": float(1 - q[is_chosen].sum() / len(effective)),
        "against_label": _against_label(preferred, table),
        "doubted": _doubted(preferred, table, label_smoothing, texts, most),
        "beaten": _beaten(preferred, is_chosen, texts, most),
        "importance_counts": importance_counts.tolist(),
        "importance_edges": importance_edges.tolist(),
        "effective_counts": effective_counts.tolist(),
        "effective_edges": effective_edges.tolist(),
    }


def preferred_lines(report: dict[str, Any]) -> list[str]:
    """The summary as lines for a terminal."""
    low, middle, high = (report["effective"][level] for level in ("0.05", "0.5", "0.95"))
    lines = [
        "{pairs:,} preferred pairs drawn, {against_label:.1%} of them a labelled pair turned round".format(**report),
        f"importance of a prompt is shared among {middle:.1f} candidates (5 to 95 %: {low:.1f} to {high:.1f})",
        "the most important candidate is no chosen one in {best_not_chosen:.1%} of the prompts, "
        "{importance_not_chosen:.1%} in expectation".format(**report),
    ]
    for row in report["doubted"]:
        lines += _shown(f"label doubted: probability {row['label_smoothing']:.2f} that it is wrong", row)
    for row in report["beaten"]:
        lines += _shown("drawn against a chosen response", row)
    return lines


def save_preferred_plot(path: Path, report: dict[str, Any]) -> None:
    """Draw both histograms as a PNG; a kill leaves no half-written file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.stairs(report["importance_counts"], report["importance_edges"], fill=True, color="#2471a3")
    left.set(yscale="symlog", xlabel="importance q of a candidate", ylabel="candidates")
    right.stairs(report["effective_counts"], report["effective_edges"], fill=True, color="#2471a3")
    right.axvline(report["effective"]["0.5"], color="#7f8c8d", linewidth=1)
    right.set(xlabel="effective candidates 1/Σq² (line: the median)", ylabel="prompts")
    title = "{pairs:,} pairs drawn; best candidate is no chosen one: {best_not_chosen:.1%} of prompts".format(**report)
    figure.suptitle(title, fontsize=10)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


def _against_label(preferred: Preferred, table: PairTable) -> float:
    """Share of the drawn pairs that are a labelled pair with its responses exchanged."""
    responses = len(preferred.q)
    turned = table.rejected * responses + table.chosen
    return float(np.isin(preferred.pairs.chosen * responses + preferred.pairs.rejected, turned).mean())


def _doubted(
    preferred: Preferred, table: PairTable, label_smoothing: np.ndarray, texts: Texts, most: int
) -> list[dict[str, Any]]:
    largest = np.argsort(-label_smoothing, kind="stable")[:most]
    doubted = largest[label_smoothing[largest] > 0]
    flips = label_smoothing[doubted]
    return _rows(preferred, table.chosen[doubted], table.rejected[doubted], flips, texts)


def _beaten(preferred: Preferred, is_chosen: np.ndarray, texts: Texts, most: int) -> list[dict[str, Any]]:
    chosen, rejected, flip = preferred.pairs
    _, once = np.unique(np.stack([chosen, rejected]), axis=1, return_index=True)
    gap = preferred.reward[chosen] - preferred.reward[rejected]
    surprising = once[is_chosen[rejected[once]] & (gap[once] > 0)]
    largest = surprising[np.argsort(-gap[surprising], kind="stable")[:most]]
    return _rows(preferred, chosen[largest], rejected[largest], flip[largest], texts)


def _rows(
    preferred: Preferred, chosen: np.ndarray, rejected: np.ndarray, flip: np.ndarray, texts: Texts
) -> list[dict[str, Any]]:
    return [
        {
            "label_smoothing": epsilon,
            "chosen_reward": float(preferred.reward[i]),
            "rejected_reward": float(preferred.reward[j]),
            "text": texts(i, j),
        }
        for i, j, epsilon in zip(chosen.tolist(), rejected.tolist(), flip.tolist(), strict=True)
    ]


def _shown(what: str, row: dict[str, Any]) -> list[str]:
    rewards = "rewards {chosen_reward:+.2f} {rejected_reward:+.2f}".format(**row)
    return [f"{what} | {rewards}", *(f"  {name:8}  {one_line(text)}" for name, text in row["text"].items())]
