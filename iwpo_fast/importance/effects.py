"""What weights, soft labels and drawn pairs did to the pairs that a policy is trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from iwpo_fast.importance.effective_size import ess_fraction

Effects = Mapping[str, float]
"""`labelled` and `drawn`, pairs of each kind; of the labelled ones `ess`, the effective sample size as a fraction,
`label_smoothing`, its mean, and `turned`, the number whose label is more likely wrong than right."""


def effects_of(weight: np.ndarray, label_smoothing: np.ndarray, drawn: np.ndarray) -> Effects:
    """Count what was done to P pairs, in values that JSON can hold.

    Args:
        weight: float64 [P], not all 0.
        label_smoothing: float64 [P], probability that the label is wrong.
        drawn: bool [P], pairs that nobody labelled.
    """
    weight, label_smoothing = weight[~drawn], label_smoothing[~drawn]
    return {
        "labelled": len(weight),
        "drawn": int(drawn.sum()),
        "ess": ess_fraction(weight, np.zeros(len(weight), dtype=np.int64), 1)[0],
        "label_smoothing": float(label_smoothing.mean()),
        "turned": int((label_smoothing > 0.5).sum()),
    }


def effect_lines(effects: Effects) -> list[str]:
    """A sentence on each part."""
    labelled, ess, drawn, turned = (effects[name] for name in ("labelled", "ess", "drawn", "turned"))
    weights, labels, pairs = "all alike", "hard, as they were given", "none"
    if ess < 1 - 1e-9:  # rounding of sums
        weights = f"unequal, with an effective sample size of {ess:.1%} of {labelled:,} labelled pairs"
    if mean := effects["label_smoothing"]:
        share = f"{turned:,} of {labelled:,} ({turned / labelled:.1%})"
        labels = f"softened, by {mean:.3f} on the mean; {share} are taken for wrong rather than right"
    if drawn:
        pairs = f"{drawn:,}, beside {labelled:,} labelled ones"
    return [f"weights: {weights}", f"labels: {labels}", f"drawn pairs: {pairs}"]
