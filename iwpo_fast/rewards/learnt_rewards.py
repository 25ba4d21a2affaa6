"""What the heads of a run have learnt, calibrated, said of any responses whose features are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.rewards.blocks import Groups, Ints
from iwpo_fast.rewards.calibration import Calibration, calibrate
from iwpo_fast.rewards.clusters import Clusters
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.distribution_heads import DistributionHeads, log_odds
from iwpo_fast.rewards.head_kinds import Heads
from iwpo_fast.rewards.pair_table import PairFeatures
from iwpo_fast.rewards.pessimism import Pessimism
from iwpo_fast.rewards.preference_heads import PreferenceHeads

Float64s = NDArray[np.float64]


class Scores(NamedTuple):
    """Scores of n completions, or of n pairs of them with a further axis of 2.

    Attributes:
        score: [n] fp64, calibrated reward in log-odds, less what pessimism takes; NaN for what is too long,
            where the reward model drops that.
        spread: [n] fp64, standard deviation of the calibrated rewards among the members of the ensemble; NaN for an
            ensemble of one. Of heads that know grades, with the variance of the grades among graders (not clipped).
        raw: [n, members] fp64, by each member, before calibration.
        members: [n, members] fp64, each after calibration.
        cluster: [n] int64, of the prompt; -1 where there is no score.
    """

    score: Float64s
    spread: Float64s
    raw: Float64s
    members: Float64s
    cluster: Ints

    def take(self, rows: Any) -> Scores:
        """What the index `rows` picks of every array."""
        return Scores(*(values[rows] for values in self))


@dataclass(frozen=True)
class LearntRewards:
    """Clusters, heads of all folds and calibration.

    A prompt of the training data is scored by the heads of the fold that did not see it. Any other prompt is scored by
    the mean over all folds; its members differ from that mean as those of one fold do, the one that the hash of the
    prompt names, so that spreads of seen and of new prompts mean the same.

    Attributes:
        training_prompts: hex digests of the token ids of the prompts that the heads learnt from.
        record: what `reward_model.json` says: recipe of the features, language model, tokens, folds, seed.
        report: of the rewards of the training pairs, as `report_rewards` returns it.
        pessimism: what calibrated rewards are lowered by; None where they stay as they are.
    """

    clusters: Clusters
    heads: Heads
    calibration: Calibration
    training_prompts: frozenset[str]
    record: dict[str, Any]
    report: dict[str, Any]
    pessimism: Pessimism | None = None

    @property
    def compares(self) -> bool:
        """Whether the score of a completion depends on the others of its prompt."""
        return isinstance(self.heads, PreferenceHeads)

    def score_features(self, features: PairFeatures) -> Scores:
        """Scores of the C responses in the order of the table of `features`.

        Raises:
            ValueError: hidden states have another width than those that the heads learnt from, or are not finite; or
                heads that compare find a response alone with its prompt.
        """
        self._check_width(features)
        self._check_opponents(features)
        cluster = self._clusters(features)[features.table.prompt_of]
        raw = self._raw(features, cluster)
        centre, slope, limit = self.calibration.centre, self.calibration.slope, self.limit
        members = calibrate(raw, cluster, centre, slope, limit)
        spread = members.std(axis=1) if members.shape[1] > 1 else np.full(len(members), np.nan)
        if isinstance(self.heads, DistributionHeads):
            spread = np.sqrt(np.nan_to_num(spread) ** 2 + slope[cluster] ** 2 * self._of_graders(features, cluster))
        score = calibrate(raw.mean(axis=1), cluster, centre, slope, limit)
        if self.pessimism is not None:
            fold, new = self._seen(features)
            groups, fold = self._groups(features), np.where(new, -1, fold)
            score, members = self.pessimism.lower(score, members, groups, cluster, fold)
        return Scores(score, spread, raw, members, cluster)

    def prefer_features(self, features: PairFeatures) -> Float64s:
        """[P, members], log-odds that the chosen of two responses is preferred, of the pairs of the table.

        Raises:
            ValueError: as of `score_features`.
        """
        self._check_width(features)
        table, cluster = features.table, self._clusters(features)[features.table.prompt_of]
        if isinstance(self.heads, PreferenceHeads):
            every = self.heads.scores(self._groups(features), cluster, table.chosen, table.rejected)
            fold, new = self._seen(features)
            gap = _finite(self._own(every, fold[table.chosen], new[table.chosen])).astype(np.float64)
        elif isinstance(self.heads, DistributionHeads):
            win = self.heads.wins(self._groups(features), cluster, table.chosen, table.rejected)
            fold, new = self._seen(features)
            return _finite(self._own(log_odds(win), fold[table.chosen], new[table.chosen]))
        else:
            rewards = self._raw(features, cluster)
            gap = rewards[table.chosen] - rewards[table.rejected]
        return self.calibration.slope[cluster[table.chosen], None] * gap

    @property
    def limit(self) -> float:
        """Calibrated rewards are clipped to this size."""
        limit = self.record["max_reward"]
        return float("inf") if limit is None else float(limit)

    def _clusters(self, features: PairFeatures) -> Ints:
        """[M] int64; of a prompt of the training data by the gate that has not seen its labels, if there are gates."""
        if not self.clusters.folds:
            return self.clusters.assign(features.prompt)
        keys = features.prompt_keys
        assert keys is not None, "features of texts have the digests of their prompts"
        fold = fold_of_prompts(keys, self.clusters.folds, self.record["seed"])
        fold[[key not in self.training_prompts for key in keys]] = -1
        return self.clusters.assign(features.prompt, fold)

    def _raw(self, features: PairFeatures, cluster: Ints) -> Float64s:
        """[C, members], before calibration."""
        fold, new = self._seen(features)
        raw = np.empty((len(fold), self.heads.members))
        for place, rewards in self.heads.rewards(self._groups(features), cluster, features.table.prompt_of):
            raw[place] = self._own(rewards, fold[place], new[place])
        return _finite(raw)

    def _of_graders(self, features: PairFeatures, cluster: Ints) -> Float64s:
        """[C], variance of the grades of a response among graders, in squared log-odds before calibration."""
        assert isinstance(self.heads, DistributionHeads)
        every = self.heads.variances(self._groups(features), cluster)
        return np.asarray(self._own(every, *self._seen(features)).mean(axis=1))

    def _seen(self, features: PairFeatures) -> tuple[Ints, NDArray[np.bool_]]:
        """Of every response [C], the fold of its prompt, and whether that is none of the training data."""
        keys, prompt_of = features.prompt_keys, features.table.prompt_of
        assert keys is not None, "features of texts have the digests of their prompts"
        fold = fold_of_prompts(keys, self.heads.folds, self.record["seed"])
        return fold[prompt_of], np.array([key not in self.training_prompts for key in keys])[prompt_of]

    @staticmethod
    def _own(rewards: NDArray[Any], fold: Ints, new: NDArray[np.bool_]) -> NDArray[Any]:
        """[b, members] of rewards [b, folds, members]: by the own fold, moved to the mean of all folds if new."""
        own = rewards[np.arange(len(rewards)), fold]
        own[new] += (rewards[new].mean(axis=(1, 2)) - own[new].mean(axis=1))[:, None]
        return own

    def _groups(self, features: PairFeatures) -> Groups:
        if not self.record["features"]["likelihood"]:
            return (features.response,)
        assert features.mean_logps is not None, "features of texts have their log-probs"
        return features.response, features.mean_logps[:, None]

    def _check_opponents(self, features: PairFeatures) -> None:
        if not self.compares:
            return
        alone = int((np.bincount(features.table.prompt_of) == 1).sum())
        if alone:
            raise ValueError(
                f"The reward model compares the responses of a prompt (rewards.heads: gpm), and {alone} prompts have "
                "one that can be scored: give at least two different responses of each prompt."
            )

    def _check_width(self, features: PairFeatures) -> None:
        learnt, given = len(self.clusters.mean), features.prompt.shape[1]
        if given != learnt:
            raise ValueError(
                f"The reward model was learnt from hidden states of size {learnt}, and these have {given}: give the "
                "language model that it was learnt on."
            )


def _finite(raw: NDArray[np.floating]) -> NDArray[Any]:
    if not np.isfinite(raw).all():
        raise ValueError("Some features are NaN or infinite: look at the language model or its precision.")
    return raw
