"""Preferred samples: pairs drawn among all candidates of a prompt, by their importance for the target policy.

With r̃ the rewards of a prompt's candidates in log-odds, the importance of candidate j and each draw are

    q_j ∝ n_j exp(r̃_j / τ) · (π_ref(y_j) / μ(y_j))^κ              n_j how often j was drawn from μ
    the preferred sample j ~ q, and an opponent among the others in proportion to n, or to q as well; or both in
    proportion to n, of weight `likelihood_ratio`
    ε = σ(-(r̃_j - r̃_opponent))                                    probability that the opponent is the better one

A response that was compared has evidence of its own: half of the shift of its pair's gap, up or down
(`posterior_rewards`). Drawing pairs with hard labels instead lost to DPO in every regime of the laboratory.

**What τ does.** Whichever pairs are drawn, DPO's loss with these labels is least at h = β log(π/π_ref) = r̃ of each two
responses, up to a constant: at π_ref exp(r̃/β), which is where DPO on labels of rewards r̃ has its minimum too. So the
labels need neither τ nor β, drawn and labelled pairs agree, and τ says only which candidates training looks at: at
τ = β, preferred samples are those of the minimum itself. (Hard labels of preferred samples against the proposal would
be least at h = r̃/τ.) Only the abstract of IWPO is public: the formulas are this project's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.importance.labels import LARGEST_FLIP, gap_variance, label_shift
from iwpo_fast.importance.posterior import candidate_importance

if TYPE_CHECKING:
    from iwpo_fast.config import WeightConfig
    from iwpo_fast.importance.types import PairRewards
    from iwpo_fast.rewards import PairTable

Float64s = NDArray[np.float64]
Ints = NDArray[np.int64]


FEWEST_RESPONSES = 3
"""Responses to some prompt from which there is something to draw: two are a labelled pair already."""


class Proposal(NamedTuple):
    """How C candidates came about.

    Attributes:
        draws: float64 [C], how often each was drawn; 1 for a response of the data.
        log_mass: float64 [C], log of the draws, each counted (π_ref(y) / μ(y))^κ times.
    """

    draws: Float64s
    log_mass: Float64s


class PreferredPairs(NamedTuple):
    """D drawn pairs.

    Attributes:
        chosen, rejected: int64 [D], rows of the preferred sample and its opponent.
        label_smoothing: float64 [D] in (0, 1), probability that the opponent is the better one.
    """

    chosen: Ints
    rejected: Ints
    label_smoothing: Float64s

    def take(self, rows: Ints) -> PreferredPairs:
        return PreferredPairs(self.chosen[rows], self.rejected[rows], self.label_smoothing[rows])


class Preferred(NamedTuple):
    """What is drawn among the C candidates of all prompts, and why.

    Attributes:
        pairs: D pairs of weight above 0.
        weight: float64 [D] above 0, of each pair: the reliability of its cluster, and what else it was multiplied by.
        q: float64 [C], importance of each candidate; sums to 1 over each prompt.
        reward: float64 [C], r̃, rewards in log-odds with the evidence of the labels.
        prompt_of: int64 [C], the prompt among whose candidates each is.
        tau: temperature of the target.
    """

    pairs: PreferredPairs
    weight: Float64s
    q: Float64s
    reward: Float64s
    prompt_of: Ints
    tau: float

    def times(self, factor: Float64s) -> Preferred:
        """With the weight of each pair multiplied by a factor [D], without the pairs that it leaves at 0."""
        weight = self.weight * factor
        kept = np.flatnonzero(weight > 0)
        return self._replace(pairs=self.pairs.take(kept), weight=weight[kept])


def draw_preferred(
    rewards: PairRewards,
    table: PairTable,
    proposal: Proposal,
    draws: int,
    settings: WeightConfig,
    *,
    seed: int,
    prompt_of: Ints | None = None,
) -> Preferred:
    """Draw pairs for each prompt, of the weight that is the reliability of its cluster; those of weight 0 are left out.

    So a reward model that knows nothing adds nothing. With `opponent: weighed` the weight is `likelihood_ratio` times
    that.

    Args:
        rewards: of the labelled pairs, with the rewards of all C candidates.
        table: the labelled pairs among them.
        draws: pairs of each prompt.
        settings: `relative_variance`, of the gaps; `opponent`; and `tau`, which is 1, the unit of the labels' log-odds,
            where it is not a number.
        prompt_of: int64 [C], the prompt among whose candidates each is, where the table takes several for one.
    """
    assert rewards.candidates is not None
    prompt_of = table.prompt_of if prompt_of is None else prompt_of
    variance = gap_variance(rewards, settings.relative_variance)
    reward = posterior_rewards(rewards.candidates.reward, table, label_shift(rewards, variance))
    tau = target_temperature(settings)
    q = candidate_importance(reward, prompt_of, tau=tau, log_ratio=proposal.log_mass)
    first = proposal.draws if settings.opponent == "weighed" else q
    second = q if settings.opponent == "importance" else proposal.draws
    pairs = preferred_pairs(reward, prompt_of, first, second, draws, seed=seed)
    cluster = np.zeros(int(table.prompt_of.max()) + 1, dtype=np.int64)
    cluster[table.prompt] = rewards.cluster
    reliability = rewards.trust if rewards.reliability is None else rewards.reliability
    ratio = likelihood_ratio(pairs, prompt_of, q, proposal.draws) if settings.opponent == "weighed" else None
    drawn = Preferred(pairs, np.ones(len(pairs.chosen)) if ratio is None else ratio, q, reward, prompt_of, tau)
    return drawn.times(reliability[cluster[table.prompt_of[pairs.chosen]]])


def likelihood_ratio(pairs: PreferredPairs, prompt_of: Ints, q: Float64s, draws: Float64s) -> Float64s:
    """How much likelier [D] the two of each pair are, in either order, if drawn by q than in proportion to `draws`.

    Importance sampling: pairs drawn by `draws` and weighed by it stand for pairs drawn by q, as RSO's are (Liu et al.,
    arXiv 2309.06657). Its mean over the former is 1.

    Args:
        prompt_of: int64 [C].
        q: [C], sums to 1 over each prompt.
        draws: [C], above 0.
    """
    share = draws / np.bincount(prompt_of, draws)[prompt_of]
    wanted, had = (_chance_of_two(pairs, prompt_of, of) for of in (q, share))
    return wanted / had


def _chance_of_two(pairs: PreferredPairs, prompt_of: Ints, share: Float64s) -> Float64s:
    """[D], that two draws without replacement, by shares [C] of their prompts, are the two of a pair.

    What is left beside the largest share of a prompt is summed, because 1 less a share near 1 has no digits.
    """
    beside = 1 - share
    order = np.lexsort((share, prompt_of))
    largest = order[np.append(np.diff(prompt_of[order]) > 0, True)]
    others = share.copy()
    others[largest] = 0
    beside[largest] = np.bincount(prompt_of, others)[prompt_of[largest]]
    one, other = share[pairs.chosen], share[pairs.rejected]
    after_one, after_other = (
        np.divide(then, beside[before], out=np.zeros_like(then), where=beside[before] > 0)
        for then, before in ((other, pairs.chosen), (one, pairs.rejected))
    )
    return np.asarray(one * after_one + other * after_other)


def has_several(prompt_of: Ints) -> NDArray[np.bool_]:
    """[C], whether the prompt of each candidate has enough of them for a draw to bring a new pair."""
    return np.bincount(prompt_of)[prompt_of] >= FEWEST_RESPONSES


def target_temperature(settings: WeightConfig) -> float:
    """τ of `draw_preferred`."""
    tau = settings.resolved().tau
    return 1.0 if isinstance(tau, str) else tau


def posterior_rewards(reward: Float64s, table: PairTable, shift: Float64s) -> Float64s:
    """Rewards [C] with the evidence of the labels.

    Args:
        reward: [C], calibrated rewards.
        table: the labelled pairs.
        shift: [P], what each label adds to the gap of its pair (`posterior_shift`).
    """
    moved = np.array(reward, dtype=np.float64)
    np.add.at(moved, table.chosen, shift / 2)
    np.subtract.at(moved, table.rejected, shift / 2)
    return moved


def preferred_pairs(
    reward: Float64s, prompt_of: Ints, q: Float64s, opponents: Float64s, draws: int, *, seed: int
) -> PreferredPairs:
    """Draw pairs from the candidates of every prompt that has two or more.

    Args:
        reward: [C], r̃, finite.
        prompt_of: int64 [C], prompt of each candidate, in any order.
        q: [C], importance of each candidate, by which preferred samples are drawn (`candidate_importance`).
        opponents: [C], in proportion to which their opponents are drawn: how often each candidate was drawn contrasts
            preferred samples with the proposal, and q with the target itself.
        draws: pairs of each prompt.
        seed: of the draws.
    """
    order = np.argsort(prompt_of, kind="stable")
    _, first, count = np.unique(prompt_of[order], return_index=True, return_counts=True)
    several = count > 1
    first, count = np.repeat(first[several], draws), np.repeat(count[several], draws)
    rng = np.random.default_rng(seed)
    chosen = _drawn(q[order], first, count, rng)
    rejected = _drawn(opponents[order], first, count, rng, without=chosen)
    chosen, rejected = order[chosen], order[rejected]
    flip = np.exp(-np.logaddexp(0.0, reward[chosen] - reward[rejected]))
    return PreferredPairs(chosen, rejected, np.minimum(flip, LARGEST_FLIP))


def effective_candidates(q: Float64s, prompt_of: Ints) -> Float64s:
    """1 / Σ q² of each prompt that occurs, in ascending order: among how many candidates its importance is shared."""
    _, prompt = np.unique(prompt_of, return_inverse=True)
    return 1 / np.bincount(prompt, np.square(q))


def _drawn(weights: Float64s, first: Ints, count: Ints, rng: np.random.Generator, without: Ints | None = None) -> Ints:
    """One row for each group first..first + count of sorted rows, with probability in proportion to the weights.

    Args:
        without: a row of each group that is not drawn.
    """
    total = np.concatenate([[0.0], np.cumsum(weights)])
    low, high = total[first], total[first + count]
    point = rng.random(len(first))
    if without is None:
        drawn = np.searchsorted(total, low + point * (high - low), side="right") - 1
        return np.clip(drawn, first, first + count - 1)
    left_out = weights[without]
    point = low + point * np.maximum(high - low - left_out, 0)
    point = np.where(point >= total[without], point + left_out, point)  # skips the row that is left out
    drawn = np.clip(np.searchsorted(total, point, side="right") - 1, first, first + count - 1)
    neighbour = np.where(without > first, without - 1, without + 1)  # where rounding hits the row after all
    return np.where(drawn == without, neighbour, drawn)
