"""f-DPO: maps of the log-ratio that other divergences than the reverse KL lead to (Wang et al. 2023, 2309.16240).

Each map is 0 at 0, so that losses of one completion or of averages over tokens start where they do under the reverse
KL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

DivergenceName = Literal["reverse_kl", "forward_kl", "js", "alpha"]
Divergence = Callable[[Tensor], Tensor]
CEILING = 30.0


def reverse_kl(s: Tensor) -> Tensor:
    return s


def forward_kl(s: Tensor) -> Tensor:
    return 1 - safe_exp(-s)


def js(s: Tensor) -> Tensor:
    return math.log(2) + F.logsigmoid(s)


def alpha_divergence(s: Tensor, *, alpha: float = 0.5) -> Tensor:
    """alpha is TRL's `f_alpha_divergence_coef`; at 1 this is the reverse KL."""
    return s if alpha == 1 else (safe_exp((alpha - 1) * s) - 1) / (alpha - 1)


DIVERGENCES: Mapping[DivergenceName, Divergence] = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "js": js,
    "alpha": alpha_divergence,
}


def safe_exp(x: Tensor) -> Tensor:
    """exp(x), continued by its tangent above 30, so that even squares and their gradients stay finite in float32."""
    below = x.clamp(max=CEILING)
    return torch.exp(below) * (1 + (x - below))
