"""Exact metrics: sums on the device, divided once, so that they do not depend on batch size or number of ranks."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from iwpo_fast.world import World
from iwpo_kernels import PreferenceSums

BESIDE = ("aux_losses", "aux_tokens")
"""Sums beside those of pairs: the router's loss of each micro-batch times its tokens, and these tokens."""
PRESENT = ("chosen", "rejected")
"""Sums where rows have one completion: how many of each kind there are."""
DRAWN = ("drawn_kl", "drawn")
"""Sums where the policy draws completions: their KL to the reference, and how many they are."""


class PreferenceMetrics:
    """Running sums over pairs, under TRL's metric names. Adding never waits for the device.

    Args:
        normalize: what the loss is divided by, as in `ObjectiveConfig`.
        router: factor of the router's auxiliary loss in the loss of a mixture of experts; 0 where there is none.
        sampled_kl: factor in the loss of the KL on completions that the policy draws; 0 where it draws none.
        unpaired: whether rows may have one completion. As in TRL's KTO, means are then over the completions that there
            are, margins the difference of two such means, and there are no accuracies.
        types: policies that see each pair, one for each type of annotators. The loss is their sum; other means are over
            pairs and types.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        normalize: str = "count",
        router: float = 0.0,
        unpaired: bool = False,
        sampled_kl: float = 0.0,
        types: int = 1,
    ) -> None:
        self._normalize = normalize
        self._router = router
        self._unpaired = unpaired
        self._sampled_kl = sampled_kl
        self._types = types
        self._names = (*PreferenceSums._fields, *(BESIDE if router else ()), *(PRESENT if unpaired else ()))
        self._names += DRAWN if sampled_kl else ()
        self._sums = torch.zeros(len(self._names), dtype=torch.float64, device=device)

    def add(
        self, sums: PreferenceSums, aux_loss: Tensor | None = None, tokens: int = 0, present: Tensor | None = None
    ) -> None:
        """Add a micro-batch.

        Args:
            aux_loss: [], the router's loss of it, where there is one.
            tokens: of its full sequences.
            present: as of `FlatBatch`, where rows may have one completion.
        """
        beside = () if aux_loss is None else (aux_loss.detach() * tokens, torch.full_like(aux_loss, tokens))
        counts = () if present is None or not self._unpaired else present.reshape(2, -1).sum(1)
        values = torch.stack([value.double() for value in (*sums, *beside, *counts)])
        self._sums[: len(values)] += values

    def add_drawn(self, kl: Tensor) -> None:
        """Add completions that the policy has drawn, by the KL of each, float64 [n]."""
        self._sums[-len(DRAWN) :] += torch.stack([kl.sum(), torch.full_like(kl[0], len(kl))])

    def compute(self, world: World) -> dict[str, float]:
        """Means over all pairs of all ranks since the start or the last call; the sums start anew."""
        total = dict(zip(self._names, world.sum_(self._sums.clone()).tolist(), strict=True))
        self._sums.zero_()
        pairs = total["pairs"] or 1.0
        divisor = pairs / self._types if self._normalize == "count" else total["weights"] or 1.0
        aux_loss = {"aux_loss": total["aux_losses"] / (total["aux_tokens"] or 1.0)} if self._router else {}
        drawn = {"sampled_kl": total["drawn_kl"] / (total["drawn"] or 1.0)} if self._sampled_kl else {}
        beside = self._router * aux_loss.get("aux_loss", 0.0) + self._sampled_kl * drawn.get("sampled_kl", 0.0)
        return (
            aux_loss
            | drawn
            | {
                "loss": total["weighted_loss"] / divisor + beside,
                "loss/unweighted": total["loss"] / pairs,
            }
            | (_of_completions(total) if self._unpaired else _of_pairs(total, pairs))
        )


def _of_pairs(total: Mapping[str, float], pairs: float) -> dict[str, float]:
    return {
        "rewards/chosen": total["chosen_rewards"] / pairs,
        "rewards/rejected": total["rejected_rewards"] / pairs,
        "rewards/margins": total["margins"] / pairs,
        "rewards/accuracies": total["correct"] / pairs,
        "logps/chosen": total["chosen_logps"] / pairs,
        "logps/rejected": total["rejected_logps"] / pairs,
    }


def _of_completions(total: Mapping[str, float]) -> dict[str, float]:
    """Means over the completions of each kind, of the kinds that there are."""
    sides = [side for side in PRESENT if total[side]]
    means = {f"{what}/{side}": total[f"{side}_{what}"] / total[side] for what in ("rewards", "logps") for side in sides}
    if len(sides) == len(PRESENT):
        means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
    return means


def step_metrics(
    weights: np.ndarray,
    *,
    grad_norm: float,
    learning_rate: float,
    epoch: float,
    truncated_frac: float,
    tokens_per_sec: float,
) -> dict[str, float]:
    """What a step-line has beside means over pairs.

    Args:
        weights: of the pairs since the last line; `weights/ess_frac` is their effective sample size
            (sum w)^2 / sum w^2 as a fraction of the pairs.
        truncated_frac: fraction of the pairs that were cut.
    """
    squares = float((weights**2).sum())
    ess = float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
    return {
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "epoch": epoch,
        "weights/ess_frac": ess / len(weights),
        "weights/max": float(weights.max()),
        "data/truncated_frac": truncated_frac,
        "perf/tokens_per_sec": tokens_per_sec,
    }


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Largest memory so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return {"perf/peak_memory_gib": torch.cuda.max_memory_allocated(device) / 1024**3}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"perf/peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1024**3}


def as_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """The same as JSON can hold them: it has no NaN and no infinity, and null stands for either."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def from_json(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """What `as_json` was given, with NaN for whatever was not finite."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def held_out_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The same under the names that an evaluation has."""
    return {f"eval_{name}": value for name, value in metrics.items()}
