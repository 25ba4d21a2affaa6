"""Exact metrics: sums on the device, divided once, so that they do not depend on batch size or number of ranks."""

from __future__ import annotations

import resource
import sys

import numpy as np
import torch

from iwpo_fast.world import World
from iwpo_kernels import PreferenceSums


class PreferenceMetrics:
    """Running sums over pairs, under TRL's metric names. Adding never waits for the device.

    Args:
        normalize: what the loss is divided by, as in `ObjectiveConfig`.
    """

    def __init__(self, device: torch.device, *, normalize: str = "count") -> None:
        self._normalize = normalize
        self._sums = torch.zeros(len(PreferenceSums._fields), dtype=torch.float64, device=device)

    def add(self, sums: PreferenceSums) -> None:
        self._sums += torch.stack([value.double() for value in sums])

    def compute(self, world: World) -> dict[str, float]:
        """Means over all pairs of all ranks since the start or the last call; the sums start anew."""
        names, sums = PreferenceSums._fields, world.sum_(self._sums.clone()).tolist()
        total = dict(zip(names, sums, strict=True))
        self._sums.zero_()
        pairs = total["pairs"] or 1.0
        divisor = pairs if self._normalize == "count" else total["weights"] or 1.0
        return {
            "loss": total["weighted_loss"] / divisor,
            "rewards/chosen": total["chosen_rewards"] / pairs,
            "rewards/rejected": total["rejected_rewards"] / pairs,
            "rewards/margins": total["margins"] / pairs,
            "rewards/accuracies": total["correct"] / pairs,
            "logps/chosen": total["chosen_logps"] / pairs,
            "logps/rejected": total["rejected_logps"] / pairs,
        }


def weight_metrics(weights: np.ndarray) -> dict[str, float]:
    """Effective sample size (sum w)^2 / sum w^2 as a fraction of the pairs, and the largest weight."""
    squares = float((weights**2).sum())
    ess = float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
    return {"weights/ess_frac": ess / len(weights), "weights/max": float(weights.max())}


def peak_memory_gib(device: torch.device) -> float:
    """Largest memory so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1024**3
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1024**3
