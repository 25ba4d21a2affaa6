"""The heads of one fold as functions of features that a gradient flows through, for whoever moves the features.

The numbers of the heads stay as they are. What heads say of one response is its *value*: a reward, or an embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from iwpo_fast.rewards.blocks import Float32s, Ints
from iwpo_fast.rewards.head_kinds import Heads
from iwpo_fast.rewards.linear_heads import LinearHeads
from iwpo_fast.rewards.network_fit import Networks
from iwpo_fast.rewards.network_heads import NetworkHeads
from iwpo_fast.rewards.preference_fit import Embeddings
from iwpo_fast.rewards.preference_heads import PreferenceHeads


class DifferentiableHeads(ABC):
    """m heads of a fold, in the unit in which they were trained: before each got its slope, which makes log-odds."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the value of a response: m first."""

    @abstractmethod
    def values(self, features: Tensor, cluster: Tensor) -> Tensor:
        """fp32 [s, b, *shape], of s responses to each of b prompts.

        Args:
            features: fp32 [s, b, d], before they are standardised.
            cluster: int64 [b].
        """

    @abstractmethod
    def scores(self, chosen: Tensor, rejected: Tensor, cluster: Tensor) -> Tensor:
        """[b, m], above 0 where the chosen response is preferred, of values [b, *shape] and clusters [b]."""

    @abstractmethod
    def losses(self, chosen: Tensor, rejected: Tensor, cluster: Tensor) -> Tensor:
        """[b, m], what heads of this kind were trained by, of the same."""

    @abstractmethod
    def rewards(self, values: Float32s, cluster: Ints, prompt: Ints) -> Float32s:
        """[C, m], of the values [C, *shape] of all responses to the prompts [C]."""


def differentiable(heads: Heads, fold: int, centring: float, device: torch.device) -> DifferentiableHeads:
    """The heads of a fold, on a device.

    Args:
        centring: penalty on the squared sum of the rewards of a pair, for heads that give each response a reward.
    """
    if isinstance(heads, PreferenceHeads):
        return _Preferences.of(heads, fold, device)
    if isinstance(heads, NetworkHeads):
        return _Networks.of(heads, fold, centring, device)
    assert isinstance(heads, LinearHeads), "distributions learn from grades, and pairs have none"
    return _Linear.of(heads, fold, centring, device)


class _Rewards(DifferentiableHeads):
    """Heads whose value of a response is its reward."""

    centring: float

    def scores(self, chosen: Tensor, rejected: Tensor, cluster: Tensor) -> Tensor:
        return chosen - rejected

    def losses(self, chosen: Tensor, rejected: Tensor, cluster: Tensor) -> Tensor:
        return softplus(-self.scores(chosen, rejected, cluster)) + self.centring * (chosen + rejected).square()

    def rewards(self, values: Float32s, cluster: Ints, prompt: Ints) -> Float32s:
        return values


@dataclass(frozen=True)
class _Linear(_Rewards):
    """(v + δ_z)ᵀ f.

    Attributes:
        mean, scale: [d].
        vectors: [G, d, m], or [1, d, m] without residuals.
    """

    mean: Tensor
    scale: Tensor
    vectors: Tensor
    centring: float

    @classmethod
    def of(cls, heads: LinearHeads, fold: int, centring: float, device: torch.device) -> Self:
        mean, scale = _on(device, heads.mean), _on(device, heads.scale)
        return cls(mean, scale, _on(device, heads.vectors[:, :, fold]), centring)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.vectors.shape[-1],)

    def values(self, features: Tensor, cluster: Tensor) -> Tensor:
        return self.of_inputs(self.inputs(features), cluster)

    def inputs(self, features: Tensor) -> Tensor:
        """Standardised features."""
        return (features - self.mean) * self.scale

    def of_inputs(self, inputs: Tensor, cluster: Tensor) -> Tensor:
        cluster = cluster if len(self.vectors) > 1 else torch.zeros_like(cluster)
        return torch.einsum("sbd,bdm->sbm", inputs, self.vectors[cluster])


@dataclass(frozen=True)
class _Networks(_Rewards):
    """α r_linear + uᵀ relu(Wᵀ Pᵀ f + b_z)."""

    linear: _Linear
    projection: Tensor
    networks: Networks
    centring: float

    @classmethod
    def of(cls, heads: NetworkHeads, fold: int, centring: float, device: torch.device) -> Self:
        own, linear = _own(heads, fold), _in_log_odds(heads.linear, fold, device)
        parts = heads.hidden[:, own], heads.bias[:, own], heads.output[own], heads.share[fold]
        networks = Networks(*(_on(device, part) for part in parts))
        return cls(linear, _on(device, heads.projection), networks, centring)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.linear.shape

    def values(self, features: Tensor, cluster: Tensor) -> Tensor:
        inputs = self.linear.inputs(features)
        of_networks = self.networks.rewards(inputs @ self.projection, cluster)
        return self.networks.share * self.linear.of_inputs(inputs, cluster) + of_networks


@dataclass(frozen=True)
class _Preferences(DifferentiableHeads):
    """Embeddings, of which scores are made as `PreferenceHeads` says.

    Attributes:
        heads: the same m heads on the host, with slopes of 1.
    """

    linear: _Linear
    projection: Tensor
    embeddings: Embeddings
    heads: PreferenceHeads

    @classmethod
    def of(cls, heads: PreferenceHeads, fold: int, device: torch.device) -> Self:
        own, linear = _own(heads, fold), _in_log_odds(heads.linear, fold, device)
        parts = heads.vectors[:, own], heads.bias[:, own], heads.gate[:, own], heads.share[fold]
        embeddings = Embeddings(*(_on(device, part) for part in parts))
        of_fold = replace(heads, gate=heads.gate[:, own], slope=np.ones((1, heads.members)))
        return cls(linear, _on(device, heads.projection), embeddings, of_fold)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.embeddings.bias.shape[1:])

    def values(self, features: Tensor, cluster: Tensor) -> Tensor:
        inputs = self.linear.inputs(features)
        return self.embeddings.of(inputs @ self.projection, cluster, self.linear.of_inputs(inputs, cluster))

    def scores(self, chosen: Tensor, rejected: Tensor, cluster: Tensor) -> Tensor:
        return self.embeddings.compare(chosen, rejected, cluster)

    def losses(self, chosen: Tensor, rejected: Tensor, cluster: Tensor) -> Tensor:
        return softplus(-self.scores(chosen, rejected, cluster))

    def rewards(self, values: Float32s, cluster: Ints, prompt: Ints) -> Float32s:
        return self.heads.mean_scores(values, cluster, prompt)[:, 0]


def _in_log_odds(linear: LinearHeads, fold: int, device: torch.device) -> _Linear:
    """Linear heads as other heads have them beside themselves, which asks nothing of their level."""
    slope = linear.slope.astype(np.float32)
    return _Linear.of(replace(linear, vectors=linear.vectors * slope), fold, 0.0, device)


def _own(heads: NetworkHeads | PreferenceHeads, fold: int) -> slice:
    """Where the heads of a fold stand among those of all folds and members."""
    return slice(fold * heads.members, (fold + 1) * heads.members)


def _on(device: torch.device, values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
