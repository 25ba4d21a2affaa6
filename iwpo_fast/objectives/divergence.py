"""f-DPO: maps of the log-ratio that other divergences than the reverse KL lead to (Wang et al. 2023, 2309.16240)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

DivergenceName = Literal["reverse_kl", "forward_kl", "js", "alpha"]
CEILING = 30.0


@dataclass(frozen=True)
class Divergence:
    """phi(s) of log-ratios s [P]: s, 1 - exp(-s), log 2 + log sigmoid(s), or (exp((alpha - 1) s) - 1) / (alpha - 1).

    phi(0) is 0, so that losses of one completion or of averages over tokens start where they do under the reverse KL.
    The alpha form has the convention of TRL's f_alpha_divergence_coef; alpha = 1 is the reverse KL.
    """

    name: DivergenceName = "reverse_kl"
    alpha: float = 0.5

    def __call__(self, s: Tensor) -> Tensor:
        if self.name == "forward_kl":
            return 1 - safe_exp(-s)
        if self.name == "js":
            return math.log(2) + F.logsigmoid(s)
        if self.name == "alpha" and self.alpha != 1:
            return (safe_exp((self.alpha - 1) * s) - 1) / (self.alpha - 1)
        return s


REVERSE_KL = Divergence()


def safe_exp(x: Tensor) -> Tensor:
    """exp(x), continued by its tangent above 30, so that even squares and their gradients stay finite in float32."""
    below = x.clamp(max=CEILING)
    return torch.exp(below) * (1 + (x - below))
