"""Losses of Liger's list that are no function of the margin alone or have a shape of their own, in PyTorch.

Each takes the rewards beta · (log-prob − reference log-prob) of P chosen and P rejected sequences, [P] each, and gives
the losses [P]. With w and l for the two, m = w − l, and ε for `label_smoothing`:

| name      | loss | source |
|-----------|------|--------|
| exo_pair  | σ(m) (log σ(m) − log(1 − ε)) + σ(−m) (log σ(−m) − log ε) | EXO, arXiv 2402.00856, eq. 16 |
| nca_pair  | −log σ(w) − ½ log σ(−w) − ½ log σ(−l) | NCA, arXiv 2402.05369 |
| robust    | (−(1 − ε) log σ(m) + ε log σ(−m)) / (1 − 2 ε) | robust DPO, arXiv 2403.00409 |
| bco_pair  | −log σ(w) − log σ(−l) | BCO, arXiv 2404.04656, without its shift |
| sppo_hard | ((w − ½)² + (l + ½)²) / beta² | SPPO, arXiv 2405.00675, with P of 1 and 0 |
| apo_zero  | 1 − σ(w) + σ(l) | APO, arXiv 2408.06266, eq. 7 |
| apo_down  | σ(w) + 1 − σ(m) | APO, eq. 8 |
| discopop  | −(1 − g) log σ(m) + g exp(−m), g = σ(m / tau) | DiscoPOP, arXiv 2406.08414, eq. 5 |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Settings(NamedTuple):
    """What a loss reads beside the rewards."""

    beta: float
    label_smoothing: float
    discopop_tau: float


def _exo_pair(w: Tensor, l: Tensor, settings: Settings) -> Tensor:  # noqa: E741
    m, epsilon = w - l, settings.label_smoothing
    won, lost = F.logsigmoid(m), F.logsigmoid(-m)
    return won.exp() * (won - math.log1p(-epsilon)) + lost.exp() * (lost - math.log(epsilon))


def _nca_pair(w: Tensor, l: Tensor, settings: Settings) -> Tensor:  # noqa: E741
    return -F.logsigmoid(w) - 0.5 * F.logsigmoid(-w) - 0.5 * F.logsigmoid(-l)


def _robust(w: Tensor, l: Tensor, settings: Settings) -> Tensor:  # noqa: E741
    m, epsilon = w - l, settings.label_smoothing
    return (epsilon * F.logsigmoid(-m) - (1 - epsilon) * F.logsigmoid(m)) / (1 - 2 * epsilon)


def _bco_pair(w: Tensor, l: Tensor, settings: Settings) -> Tensor:  # noqa: E741
    return -F.logsigmoid(w) - F.logsigmoid(-l)


def _sppo_hard(w: Tensor, l: Tensor, settings: Settings) -> Tensor:  # noqa: E741
    return ((w - 0.5).square() + (l + 0.5).square()) / settings.beta**2


def _apo_zero(w: Tensor, l: Tensor, settings: Settings) -> Tensor:  # noqa: E741
    return torch.sigmoid(-w) + torch.sigmoid(l)


def _apo_down(w: Tensor, l: Tensor, settings: Settings) -> Tensor:  # noqa: E741
    return torch.sigmoid(w) + torch.sigmoid(l - w)


def _discopop(w: Tensor, l: Tensor, settings: Settings) -> Tensor:  # noqa: E741
    m = w - l
    scaled = m / settings.discopop_tau
    # exp(−m) is huge exactly where its gate is tiny: one exponential of both stays finite.
    return torch.exp(F.logsigmoid(scaled) - m) - torch.sigmoid(-scaled) * F.logsigmoid(m)


LOSSES: dict[str, Callable[[Tensor, Tensor, Settings], Tensor]] = {
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "robust": _robust,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
}
READ_SMOOTHING = ("exo_pair", "robust")
"""Losses in which ε is a number of their own formula; the others are mixed with the pair turned round."""


def pair_losses(name: str, chosen: Tensor, rejected: Tensor, settings: Settings) -> Tensor:
    """[P], the loss `name` of rewards [P], mixed with that of the turned pair where the label may be flipped."""
    losses = LOSSES[name](chosen, rejected, settings)
    epsilon = settings.label_smoothing
    if name in READ_SMOOTHING or not epsilon:
        return losses
    return (1 - epsilon) * losses + epsilon * LOSSES[name](rejected, chosen, settings)
