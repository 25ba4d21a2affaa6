"""A mixture of Bradley-Terry models whose gate reads the prompt alone.

    p(all labels of x) = Σ_k π_k(x) Π_i σ((v + δ_k)ᵀ d_i)        π(x) = softmax(W x + b)

with d_i the features of pair i's chosen response minus those of its rejected one. The mixture maximises the mean of
the log of that, per pair, less ρ ‖v‖² + η Σ_k ‖δ_k‖² + κ ‖W‖². It is a mixture of experts (Jordan and Jacobs 1994).
Only the abstract of IWPO is public; what is made of it here is the project's own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import log_expit, log_softmax

from iwpo_fast.rewards.blocks import Float32s, Float64s, Ints

START_ITERATIONS, MOST_ITERATIONS = 30, 60


class LabelledPrompts(NamedTuple):
    """M prompts with P pairs.

    Attributes:
        prompts: x [M, p] fp32.
        gaps: d [P, q] fp32.
        prompt: [P] int64, row of every pair's prompt.
        pairs_of: [M, P] fp64, 1 where a pair is of the prompt.
    """

    prompts: Float32s
    gaps: Float32s
    prompt: Ints
    pairs_of: csr_array

    @classmethod
    def of(cls, prompts: Float32s, gaps: Float32s, prompt: Ints) -> LabelledPrompts:
        pairs = np.arange(len(prompt))
        return cls(
            prompts, gaps, prompt, csr_array((np.ones(len(prompt)), (prompt, pairs)), (len(prompts), len(pairs)))
        )

    def take(self, chosen: np.ndarray) -> LabelledPrompts:
        """The prompts that a mask [M] names, with their pairs."""
        pairs = chosen[self.prompt]
        return self.of(self.prompts[chosen], self.gaps[pairs], (np.cumsum(chosen) - 1)[self.prompt[pairs]])


class Penalties(NamedTuple):
    """ρ of the shared vector, η of the residuals, κ of the gate."""

    shared: float
    residual: float
    gate: float


class Mixture(NamedTuple):
    """K experts, all fp64.

    Attributes:
        gate: W [K, p].
        bias: b [K].
        shared: v [q].
        residuals: δ [K, q].
    """

    gate: Float64s
    bias: Float64s
    shared: Float64s
    residuals: Float64s

    def assign(self, prompts: Float32s) -> Ints:
        """The most probable expert [M] int64 of each prompt."""
        return self._logits(prompts).argmax(axis=1)

    def margins(self, gaps: Float32s) -> Float64s:
        """Reward gaps [P, K] under each expert."""
        return (gaps @ (self.shared + self.residuals).T.astype(np.float32)).astype(np.float64)

    def objective(self, examples: LabelledPrompts, penalties: Penalties) -> float:
        """The mean log-likelihood per pair, less the penalties."""
        return -self.loss(examples, penalties, None)[0]

    def loss(
        self, examples: LabelledPrompts, penalties: Penalties, responsibilities: Float64s | None
    ) -> tuple[float, Mixture]:
        """Minus the objective, with its gradient; under given responsibilities [M, K], EM's bound on it instead.

        The gradient of both has the same form, because that of the bound at the posterior responsibilities is that of
        the likelihood (Fisher's identity).
        """
        pairs = len(examples.gaps)
        log_right = log_expit(self.margins(examples.gaps))
        log_gate = log_softmax(self._logits(examples.prompts), axis=1)
        joint = log_gate + examples.pairs_of @ log_right
        if responsibilities is None:
            posterior = log_softmax(joint, axis=1)
            value, shares = (joint - posterior)[:, 0].sum(), np.exp(posterior)
        else:
            value, shares = (responsibilities * joint).sum(), responsibilities
        of_logits = (np.exp(log_gate) - shares) / pairs
        of_margins = shares[examples.prompt] * np.expm1(log_right) / pairs
        of_heads = (of_margins.T.astype(np.float32) @ examples.gaps).astype(np.float64)
        gradient = Mixture(
            gate=of_logits.T.astype(np.float32) @ examples.prompts + 2 * penalties.gate * self.gate,
            bias=of_logits.sum(axis=0),
            shared=of_heads.sum(axis=0) + 2 * penalties.shared * self.shared,
            residuals=of_heads + 2 * penalties.residual * self.residuals,
        )
        return -float(value) / pairs + self._penalty(penalties), gradient

    def flat(self) -> Float64s:
        return np.concatenate([part.ravel() for part in self])

    def unflat(self, values: Float64s) -> Mixture:
        """Of the shapes of this one, with other values."""
        parts = np.split(values, np.cumsum([part.size for part in self])[:-1])
        return Mixture(*(part.reshape(own.shape) for part, own in zip(parts, self, strict=True)))

    def _logits(self, prompts: Float32s) -> Float64s:
        return prompts @ self.gate.T.astype(np.float32) + self.bias

    def _penalty(self, penalties: Penalties) -> float:
        parts = zip(penalties, (self.shared, self.residuals, self.gate), strict=True)
        return sum(factor * float(np.square(part).sum()) for factor, part in parts)


def start_mixture(examples: LabelledPrompts, responsibilities: Float64s, penalties: Penalties) -> Mixture:
    """Gate and heads under given responsibilities [M, K]: the first maximisation of EM."""
    count = responsibilities.shape[1]
    nothing = Mixture(
        gate=np.zeros((count, examples.prompts.shape[1])),
        bias=np.zeros(count),
        shared=np.zeros(examples.gaps.shape[1]),
        residuals=np.zeros((count, examples.gaps.shape[1])),
    )
    return _maximised(nothing, examples, penalties, responsibilities, START_ITERATIONS)


def fit_mixture(examples: LabelledPrompts, responsibilities: Float64s, penalties: Penalties) -> Mixture:
    """The mixture of a local maximum, near what the responsibilities [M, K] say.

    L-BFGS climbs the likelihood itself. EM has the same maxima, but hardly moves where experts are still alike.
    """
    start = start_mixture(examples, responsibilities, penalties)
    return _maximised(start, examples, penalties, None, MOST_ITERATIONS)


def _maximised(
    start: Mixture,
    examples: LabelledPrompts,
    penalties: Penalties,
    responsibilities: Float64s | None,
    iterations: int,
) -> Mixture:
    def loss(values: Float64s) -> tuple[float, Float64s]:
        value, gradient = start.unflat(values).loss(examples, penalties, responsibilities)
        return value, gradient.flat()

    found = minimize(loss, start.flat(), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return start.unflat(found.x)
