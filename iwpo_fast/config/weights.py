"""What becomes of rewards: weights, soft labels and drawn pairs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, log
from typing import Annotated, Any, Literal

from iwpo_fast.limits import BELOW_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, POSITIVE_OR_INFINITE, SHARE, Limits

EVEN = 0.99
"""Effective sample size, as a fraction of the pairs, from which weights are not worth a temperature: all are 1."""

WeightForm = Literal["cautious", "strong", "off"]

FORMS: dict[WeightForm, dict[str, Any]] = {
    "cautious": {
        "method": "none",
        "tau": "ess",
        "gamma": 0.0,
        "ess_target": "noise",
        "soft_labels": "posterior",
        "preferred_pairs": 1,
    },
    "strong": {
        "method": "irpss",
        "tau": 2.0,
        "gamma": 2.0,
        "ess_target": "noise",
        "soft_labels": 0.75,
        "preferred_pairs": 0,
    },
    "off": {
        "method": "none",
        "tau": "ess",
        "gamma": 0.0,
        "ess_target": "noise",
        "soft_labels": 0.0,
        "preferred_pairs": 0,
    },
}
"""What each form puts in the place of `auto`."""


@dataclass
class ExperimentalConfig:
    """Settings of weights that measured no better than the defaults, or worse; docs/experimental.md says how.

    Args:
        method: `density_ratio` and `rejection` weigh by how well the rewards explain the label (arXiv 2405.18686), in
            the place of `irpss`. `madpo` sharpens labels up to a margin (arXiv 2510.05342), `selective` keeps the pairs
            whose labels rewards from other pairs explain best (after arXiv 2502.09650): docs/systems/rivals.md.
        ratio_scale: Risk, in nats, over which the weight of `density_ratio` falls by a factor e; the unit of risk of
            `rejection`.
        ratio_alpha: Order of the divergence of `rejection`; at 3 the weight falls linearly with the risk, to 0.
        rejected_exponent: How much of the rejected completion's reward enters the weight of `irpss`. It needs a number
            for `tau` or `ess_target`.
        baseline: What a reward is compared with by `irpss`: `cluster` its cluster alone, `group` all candidates of its
            prompt, `shrunk` these as far as levels of prompts differ by more than chance; best with four or more.
        selection: A chosen completion has won a comparison, so that good ones are there too often: `irpss` divides by
            how often such a one wins, against the responses of its `cluster` or the `candidates` of its prompt. It
            needs a number for `tau` or `ess_target`.
        madpo_factor: Largest factor by which `madpo` sharpens a label's log-odds, and blunts those of clear ones; 1 is
            DPO.
        madpo_turn: Reward gap, in log-odds, from which `madpo` blunts; its author's code has log 999.
        madpo_sharpness: How sharply it turns there.
        selected_share: Share of the pairs of each cluster that `selective` keeps.
    """

    method: Literal["density_ratio", "rejection", "madpo", "selective"] | None = None
    ratio_scale: Annotated[float, POSITIVE] = 1.0
    ratio_alpha: Annotated[float, Limits(1, low_open=True)] = 3.0
    rejected_exponent: float = 0.0
    baseline: Literal["cluster", "group", "shrunk"] = "cluster"
    selection: Literal["none", "cluster", "candidates"] = "none"
    madpo_factor: Annotated[float, Limits(1)] = 2.0
    madpo_turn: Annotated[float, POSITIVE] = log(0.999 / 0.001)
    madpo_sharpness: Annotated[float, POSITIVE] = 1.0
    selected_share: Annotated[float, Limits(0, 1, low_open=True)] = 0.5


@dataclass
class WeightConfig:
    """Importance weights and soft labels from calibrated rewards (IRPSS). `form` sets whatever is `auto`.

    Args:
        form: `cautious` takes every label as far as label and rewards agree, draws a preferred pair for each prompt
            where there are candidates, and leaves weights at 1; `strong` weighs at `tau: 2`, `gamma: 2` and softens
            labels by three quarters: better where rewards can be trusted, and worse than DPO where they mislead; `off`
            is plain DPO. What each was worth: docs/iwpo.md.
        method: `irpss` weighs pairs by importance; `none` gives every pair weight 1, and by itself leaves labels alone.
            With the form `cautious`, `auto` is `irpss` where any setting is given that weights read, such as `tau`.
        tau: Temperature of the target policy, reference * exp(reward / tau), for weights and for `preferred_pairs`;
            `ess` takes the smallest that keeps the effective sample size of every large cluster above `ess_target`, and
            1 for `preferred_pairs`.
        gamma: Sharpness of the probability that the chosen completion is the better one; 0 leaves it out. It needs a
            number for `tau` or `ess_target`.
        ess_target: Effective sample size, as a fraction of the pairs, for `tau: ess`. `noise` takes it from how far the
            members of the ensemble disagree: the more, the smaller, and 1 where they agree; 0.9 without an ensemble.
            From 0.99 on all weights are 1.
        truncate: Weights above this multiple of the mean are cut to it, before the mean is set to 1 again.
        defensive: Share of uniform weights mixed in.
        soft_labels: Label smoothing of a pair that the rewards find fully mislabelled; 0 leaves labels alone, as `auto`
            does where the data bring label_smoothing, where the objective cannot smooth labels or does so already, and
            with another method than `irpss`. `posterior` takes the probability that a label is wrong, given the label
            and the rewards; `grades` that with which `rewards.heads: dprm` expects the rejected completion to be
            graded higher.
        relative_variance: How far `soft_labels: posterior` and `preferred_pairs` doubt the rewards: mean square of the
            error of a reward gap over the mean square of the gaps. 0 believes the rewards alone, as distillation does;
            infinity the labels alone, as DPO does.
        preferred_pairs: Pairs that are drawn for each prompt among all its candidates, labelled or not, and trained on
            beside the labelled ones (docs/candidates.md). `auto` draws none where no prompt has more than two
            responses, where the data bring reference log-probs, and where it would leave soft labels out.
        opponent: What the preferred sample of a drawn pair is compared with: another candidate `uniform`ly, as often as
            it was drawn, or by `importance`, as the preferred sample itself; `weighed` draws both as often as they were
            drawn, and weighs the pair by how much likelier `importance` is to draw these two.
        proposal_correction: How far importance corrects for the temperature and top-p that candidates were drawn with:
            0 not at all, 1 fully.
        forward_kl: What an objective with a `gamma`, such as e_dpo, takes KL(reference || policy) on: completions of
            the `pairs`, or the `samples` of the reference that `candidates.per_prompt` draws, which are trained on as
            rows beside them (docs/systems/family.md).
        realisation: Weights stay weights, or become counts by systematic `resampling`.
        min_ess: An effective sample size below this fraction of the pairs, over all or in a large cluster, is refused.
        force: Go on despite a low effective sample size.
        experimental: What measured no better: other formulas and baselines (docs/experimental.md).
    """

    form: WeightForm = "cautious"
    method: Literal["auto", "irpss", "none"] = "auto"
    tau: Annotated[float, POSITIVE_OR_INFINITE] | Literal["auto", "ess"] = "auto"
    gamma: Annotated[float, NOT_NEGATIVE] | Literal["auto"] = "auto"
    ess_target: Annotated[float, SHARE] | Literal["auto", "noise"] = "auto"
    truncate: Annotated[float, Limits(1, infinite=True)] = 5.0
    defensive: Annotated[float, FRACTION] = 0.0
    soft_labels: Annotated[float, BELOW_ONE] | Literal["auto", "posterior", "grades"] = "auto"
    relative_variance: Annotated[float, Limits(0, infinite=True)] = 1.0
    preferred_pairs: Annotated[int, NOT_NEGATIVE] | Literal["auto"] = "auto"
    opponent: Literal["uniform", "importance", "weighed"] = "uniform"
    proposal_correction: Annotated[float, FRACTION] = 0.0
    forward_kl: Literal["pairs", "samples"] = "pairs"
    realisation: Literal["weighting", "resampling"] = "weighting"
    min_ess: Annotated[float, FRACTION] = 0.1
    force: bool = False
    experimental: ExperimentalConfig = field(default_factory=ExperimentalConfig)

    def resolved(self) -> WeightConfig:
        """With what the form says in the place of every `auto`."""
        values = dict(FORMS[self.form])
        if self.form == "cautious" and self._sets_weights():
            values["method"] = "irpss"
        if self.method == "none" or self.experimental.method is not None:
            values |= {"soft_labels": 0.0, "preferred_pairs": 0}
        if self.relative_variance == inf:
            values["preferred_pairs"] = 0
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) == "auto"})

    def _sets_weights(self) -> bool:
        """Whether a setting is given that only weights read."""
        plain = WeightConfig()
        names = ("tau", "gamma", "ess_target", "truncate", "defensive", "realisation", "min_ess", "force")
        return any(getattr(self, name) != getattr(plain, name) for name in (*names, "experimental"))

    @property
    def formula(self) -> Literal["irpss", "density_ratio", "rejection", "madpo", "selective", "none"]:
        """The method, or the experimental one that takes its place."""
        method = self.resolved().method
        assert method != "auto"
        return self.experimental.method or method
