"""What `linear_token_logps` passes around."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from iwpo_kernels.constants import IGNORED
from iwpo_kernels.linear_token_logps.tuned import Mode
from iwpo_kernels.wide_products import mm_fp32


class TokenStatistics(NamedTuple):
    """Per-token results, of the shape of the labels; all are 0 where the label is -100.

    Log-probs and log-sum-exps carry a gradient, the others do not.

    Attributes:
        logps: log-prob of the label.
        entropy: −Σ_v p_v log p_v, in nats.
        sum_p2: Σ_v p_v².
        target_is_argmax: bool, no other token has a larger logit.
        mean_logit: mean of the logits over the vocabulary.
        log_sum_exp: log Σ_v exp(z_v), or None where it was not asked for.
    """

    logps: Tensor
    entropy: Tensor
    sum_p2: Tensor
    target_is_argmax: Tensor
    mean_logit: Tensor
    log_sum_exp: Tensor | None = None


@dataclass(frozen=True)
class Head:
    """What stands between hidden states and logits: z = softcap(scale · (h Wᵀ + b)) / temperature.

    Attributes:
        weight: [V, H], in the dtype of the hidden states, or float32 master weights that products round to it.
        bias: [V] or None.
    """

    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    scale: float
    temperature: float

    def for_products(self, dtype: torch.dtype) -> Head:
        """The same head, its weight in `dtype` with contiguous rows, for passes that read it several times."""
        return replace(self, weight=_contiguous_rows(self.weight.to(dtype)), bias=_wide(self.bias))

    def part(self, first: int, last: int, dtype: torch.dtype) -> Head:
        """That of columns first..last of the vocabulary, as `for_products` has it."""
        bias = None if self.bias is None else self.bias[first:last]
        return replace(self, weight=self.weight[first:last], bias=bias).for_products(dtype)

    @property
    def slope(self) -> float:
        """dz/d(h Wᵀ + b) where the softcap is flat."""
        return self.scale / self.temperature

    @property
    def ceiling(self) -> float | None:
        """Largest |z| that the softcap lets through."""
        return None if self.softcap is None else self.softcap / self.temperature


def _contiguous_rows(weight: Tensor) -> Tensor:
    return weight if weight.stride(1) == 1 else weight.contiguous()


def _wide(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float().contiguous()


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


@dataclass(frozen=True)
class Kept:
    """Which labels are not -100, as the operator hands it to its backward pass.

    Attributes:
        position: int64 [N], the K places of those labels, then zeros; [0] where all are served.
        count: int64 [], K, on the CPU, so that nobody has to wait for it; [0] where all are served.
    """

    position: Tensor
    count: Tensor

    @classmethod
    def empty(cls, labels: Tensor, all_served: bool) -> Kept:
        """Not filled in yet. Where all are served it holds nothing, so that a CUDA graph meets no CPU tensor."""
        if all_served:
            return cls(labels.new_empty(0), labels.new_empty(0))
        return cls(labels.new_empty(labels.shape[0]), torch.empty((), dtype=torch.int64, device="cpu"))

    @classmethod
    def of(cls, labels: Tensor, all_served: bool) -> Kept:
        """Counts the labels, unless all are served; the host waits for the device to do so.

        Raises:
            ValueError: the count is wanted while a CUDA graph is captured.
        """
        kept = cls.empty(labels, all_served)
        if not all_served:
            _refuse_capture(labels)
            served = (labels != IGNORED).nonzero()[:, 0]
            kept.position[: served.shape[0]] = served
            kept.position[served.shape[0] :] = 0
            kept.count.fill_(served.shape[0])
        return kept

    @property
    def all_served(self) -> bool:
        return self.count.ndim == 1

    def rows(self, hidden: Tensor, labels: Tensor, hidden_index: Tensor | None) -> Rows:
        """The tokens that cost anything."""
        count = labels.shape[0]
        if not self.all_served:
            _refuse_capture(labels)
            count = int(self.count)
        if count == labels.shape[0]:  # kernels read both end to end
            return Rows(hidden, labels.contiguous(), None if hidden_index is None else hidden_index.contiguous(), None)
        position = self.position[:count]
        source = position if hidden_index is None else hidden_index[position]
        return Rows(hidden, labels[position], source, position)


def _refuse_capture(labels: Tensor) -> None:
    if labels.is_cuda and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            "Labels of -100 are counted on the host, which a CUDA graph cannot capture: pass the other labels alone, "
            "with hidden_index, and all_served=True."
        )


@dataclass(frozen=True)
class Forward:
    """What the forward pass leaves behind, allocated by `op._empty_forward`.

    Attributes:
        logps: [N], float64 for float64 inputs, else float32.
        statistics: like logps, [4, N] in the order of `TokenStatistics` after the log-probs, or [4, 0].
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

    @property
    def makes_jacobian(self) -> bool:
        return self.jacobian.shape[0] > 0

    @property
    def makes_statistics(self) -> bool:
        return self.statistics.shape[1] > 0

    @property
    def saves_masses(self) -> bool:
        return self.masses.shape[0] > 0

    @property
    def mode(self) -> Mode:
        if self.saves_masses:
            return "saved"
        return "frozen" if self.makes_jacobian else "no gradient"


def raw_logits(x: Tensor, head: Head, buffer: Tensor) -> Tensor:
    """h Wᵀ + b [R, columns], float32, a view of the buffer, whose rows stay aligned whatever the columns.

    Few heads have a bias, so it costs a pass of its own and no kernel a branch.
    """
    z = mm_fp32(x, head.weight.t(), out=buffer[:, : head.weight.shape[0]])
    return z if head.bias is None else z.add_(head.bias)


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything smaller: accumulators and results."""
    return torch.promote_types(dtype, torch.float32)
