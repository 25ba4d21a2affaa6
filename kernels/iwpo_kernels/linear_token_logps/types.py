"""What `linear_token_logps` passes around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from iwpo_kernels.constants import IGNORED


class TokenLogps(NamedTuple):
    """Per-token results [N]. The statistics carry no gradient; all are 0 where the label is -100.

    Attributes:
        logps: log-prob of the label.
        entropy: −Σ_v p_v log p_v, in nats.
        sum_p2: Σ_v p_v².
        target_is_argmax: bool, no other token has a larger logit.
        mean_logit: mean of the logits over the vocabulary.
    """

    logps: Tensor
    entropy: Tensor
    sum_p2: Tensor
    target_is_argmax: Tensor
    mean_logit: Tensor


@dataclass(frozen=True)
class Head:
    """What stands between hidden states and logits: z = softcap(scale · (h Wᵀ + b)) / temperature.

    Attributes:
        weight: [V, H].
        bias: [V] or None.
    """

    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    scale: float
    temperature: float

    @property
    def slope(self) -> float:
        """dz/d(h Wᵀ + b) where the softcap is flat."""
        return self.scale / self.temperature

    @property
    def ceiling(self) -> float | None:
        """Largest |z| that the softcap lets through."""
        return None if self.softcap is None else self.softcap / self.temperature


@dataclass(frozen=True)
class Rows:
    """The K tokens of a call whose label is not -100, in order.

    Attributes:
        hidden: [T, H], as given.
        labels: int64 [K].
        source: int64 [K], row of `hidden` of each token, or None where token k has row k.
        position: int64 [K], which of the N labels each is, or None where K == N.
    """

    hidden: Tensor
    labels: Tensor
    source: Tensor | None
    position: Tensor | None

    @property
    def count(self) -> int:
        return self.labels.shape[0]

    def gather(self, start: int, end: int) -> Tensor:
        """Hidden states of tokens start..end, [end − start, H]; a view where no row moves."""
        if self.source is None:
            return self.hidden[start:end]
        return self.hidden.index_select(0, self.source[start:end])


def kept_rows(hidden: Tensor, labels: Tensor, hidden_index: Tensor | None, all_served: bool) -> Rows:
    """The tokens that cost anything. Their number is read back from the device, unless they are known to be all."""
    position = None if all_served else (labels != IGNORED).nonzero()[:, 0]
    if position is None or position.shape[0] == labels.shape[0]:  # kernels read both end to end
        return Rows(hidden, labels.contiguous(), None if hidden_index is None else hidden_index.contiguous(), None)
    source = position if hidden_index is None else hidden_index[position]
    return Rows(hidden, labels[position], source, position)


@dataclass(frozen=True)
class Forward:
    """What the forward pass leaves behind, allocated by `op._empty_forward`.

    Attributes:
        logps: [N], float64 for float64 inputs, else float32.
        statistics: like logps, [4, N] in the order of `TokenLogps`, or [4, 0].
        jacobian: like logps, [N, H], ∂logp/∂hidden; [0, H] where hidden needs no gradient.
        masses: [N, columns], row k of the kept tokens has f'_v · exp(z_v − m) with 0 at the label;
            [0, columns] where not saved.
        state: like logps, [3, N], row k of the kept tokens: m; a and b such that
            ∂logp/∂(h Wᵀ + b)_v is −a · masses_v for v ≠ label and b at the label.
    """

    logps: Tensor
    statistics: Tensor
    jacobian: Tensor
    masses: Tensor
    state: Tensor


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything smaller: accumulators and results."""
    return torch.promote_types(dtype, torch.float32)
