"""The E-step: how far each annotator is of each type, given the votes; and how far EM has come.

    γ_ik ∝ η_k Π_j P_k(vote j of i)        η_k = mean_i γ_ik

P_k is the probability of a vote under the policy of type k: σ(β D_k) of a pair, with D_k the difference of log-ratios
of its completions (Chidambaram et al., arXiv 2405.15065; their code), and Plackett and Luce's of a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp, xlogy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SMALLEST = 1e-12
"""Share of a type that no annotator is of, so that its logarithm is a number and it may come back."""


def posterior(log_likelihood: Floats, share: Floats) -> Floats:
    """γ [A, K], rows of sum 1.

    Args:
        log_likelihood: [A, K], of all votes of each annotator under each type; 0 for those without any, whose γ is η.
        share: η [K], how many annotators are of each type.
    """
    return np.exp(log_softmax(np.log(np.maximum(share, SMALLEST)) + log_likelihood, axis=1))


@dataclass(frozen=True)
class Round:
    """What a round of EM has found.

    Attributes:
        before: γ [A, K] that its training weighed pairs by.
        log_likelihood: [A, K] of the votes after it.
        votes: int64 [A].
    """

    before: Floats
    log_likelihood: Floats
    votes: Ints

    @property
    def after(self) -> Floats:
        """γ [A, K] after its E-step."""
        return posterior(self.log_likelihood, self.before.mean(axis=0))

    def report(self) -> dict[str, Any]:
        """Numbers that say whether EM still moves, as JSON.

        `entropy` is the mean of annotators', in nats. `log_likelihood` is that of all votes under the mixture, for each
        vote, and `of_types` that of the votes of each type's annotators under its policy, null where it has none.
        """
        gamma, votes = self.after, self.votes.sum()
        share = self.before.mean(axis=0)
        mixed = logsumexp(np.log(np.maximum(share, SMALLEST)) + self.log_likelihood, axis=1).sum()
        of_type, weight = (gamma * self.log_likelihood).sum(0), gamma.T @ self.votes
        return {
            "share": gamma.mean(axis=0).tolist(),
            "entropy": float(-xlogy(gamma, gamma).sum(axis=1).mean()),
            "moved": int((gamma.argmax(1) != self.before.argmax(1)).sum()),
            "largest_change": float(np.abs(gamma - self.before).max()),
            "log_likelihood": float(mixed / votes) if votes else None,
            "of_types": [float(sum_ / n) if n > 0 else None for sum_, n in zip(of_type, weight, strict=True)],
            "without_votes": int((self.votes == 0).sum()),
        }


def round_line(number: int, report: dict[str, Any]) -> str:
    """The report of a round for people."""
    shares, types = _numbers(report["share"]), _numbers(report["of_types"])
    return (
        f"round {number}: shares {shares}, entropy {report['entropy']:.3f}, {report['moved']} annotators moved, "
        f"log-likelihood of a vote {_number(report['log_likelihood'])} (by type {types})"
    )


def _numbers(values: Sequence[float | None]) -> str:
    return " ".join(map(_number, values))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
