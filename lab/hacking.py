"""Reward hacking: what a policy gains in its reward model's eyes (proxy) and in truth (gold), as it leaves its start.

Every arm is followed far beyond where it was trained. Where the proxy rises and the gold reward falls, the policy lives
on errors of the reward model (Gao et al. 2023, arXiv 2210.10760). The abstract of IWPO claims that clusters mitigate
this; the arms that lack one part each say which part does, if any.

    python -m lab.hacking exact          a few minutes
    python -m lab.hacking lm             an hour; --noise as of lab lm
    python -m lab.hacking plot           both, from their JSON
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from iwpo_fast.config import ClusterConfig, RewardConfig, WeightConfig
from iwpo_fast.importance.labels import gap_variance
from lab.exact.arms import Build, unweighted, weighted
from lab.exact.candidates import EVEN, d_dpo, posterior_logistic
from lab.exact.rewards import CLUSTERS, LINEAR, ONE_CLUSTER
from lab.experiment import RESULTS, as_table

LEVELS = {"exact": "lab.exact.hacking", "lm": "lab.language_model.hacking"}


@dataclass(frozen=True)
class Followed:
    """An arm, with the reward model that it learns from, whose rewards are its proxy.

    Attributes:
        label: for tables and plots.
        build: from scores and a seed to training data.
        rewards, clusters: settings of the reward model.
    """

    label: str
    build: Build
    rewards: RewardConfig = field(default_factory=lambda: LINEAR)
    clusters: ClusterConfig = field(default_factory=lambda: CLUSTERS)


_WEIGHTS = weighted(WeightConfig(method="irpss", tau=2.0, gamma=2.0, truncate=5.0, soft_labels=0.0))
_POSTERIOR = posterior_logistic(partial(gap_variance, nu=1.0), EVEN)

ARMS: Mapping[str, Followed] = {
    "dpo": Followed("DPO", unweighted()),
    "d_dpo": Followed("d-DPO", d_dpo),
    "iwpo": Followed("IWPO: posterior labels", _POSTERIOR),
    "one_cluster": Followed("… one cluster", _POSTERIOR, clusters=ONE_CLUSTER),
    "uncalibrated": Followed("… no calibration", _POSTERIOR, replace(LINEAR, calibration=False)),
    "rewards_alone": Followed("… rewards without the label", posterior_logistic(partial(gap_variance, nu=0.0), EVEN)),
    "networks": Followed("… heads by cross-validation", _POSTERIOR, replace(LINEAR, heads="auto")),
    "weights": Followed("IWPO: weights, hard labels", _WEIGHTS),
}

Curve = Mapping[str, Sequence[float]]
"""`kl`, and the gains `proxy` and `gold` in log-odds, from small KL to large."""


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean at each step of paths with equal steps."""
    return {name: np.mean([curve[name] for curve in curves], axis=0).round(4).tolist() for name in curves[0]}


def lost(curve: Curve) -> tuple[float, float]:
    """How far the end of the path lies below its best gold reward, and below its proxy."""
    return max(curve["gold"]) - curve["gold"][-1], curve["proxy"][-1] - curve["gold"][-1]


def table(curves: Mapping[str, Curve]) -> str:
    """Markdown: proxy and gold of every arm at some places of its path."""
    places = [*range(1, len(next(iter(curves.values()))["kl"]), 2)]
    kls = next(iter(curves.values()))["kl"]
    rows = [
        ("arm, proxy / gold at KL of", *(f"{kls[i]:.2g}" for i in places), "gold below its best", "proxy above gold")
    ]
    for name, arm in ARMS.items():
        if name in curves:
            curve = curves[name]
            steps = (f"{curve['proxy'][i]:+.2f} / {curve['gold'][i]:+.2f}" for i in places)
            after, above = lost(curve)
            rows.append((arm.label, *steps, f"{after:.2f}", f"{above:+.2f}"))
    return as_table(rows)


def draw(folder: Path) -> Path:
    """Write `hacking.png` from the JSON files of the levels that are there."""
    from matplotlib.figure import Figure

    files = sorted(folder.glob("hacking-*.json"))
    if not files:
        raise ValueError(f"{folder} has no hacking-*.json to draw: run python -m lab.hacking exact first.")
    figure = Figure(figsize=(6.5 * len(files), 6), layout="constrained")
    axes = figure.subplots(1, len(files), squeeze=False)[0]
    for axis, path in zip(axes, files, strict=True):
        result = json.loads(path.read_text())
        for number, arm in enumerate(arm for arm in ARMS if arm in result["curves"]):
            curve = result["curves"][arm]
            kl = [0.0, *curve["kl"]]
            axis.plot(kl, [0.0, *curve["gold"]], color=f"C{number}", marker=".", label=ARMS[arm].label)
            axis.plot(kl, [0.0, *curve["proxy"]], color=f"C{number}", linestyle="--")
        axis.set(
            title=result["title"], xlabel="KL(π‖π_ref), nats", ylabel="gain, log-odds (solid: gold, dashed: proxy)"
        )
        axis.legend(fontsize=8)
    target = folder / "hacking.png"
    figure.savefig(target, dpi=110)
    return target


def main(arguments: Sequence[str]) -> Path:
    """Run a level, or draw what the levels have left."""
    if arguments and arguments[0] in LEVELS:
        written: Path = importlib.import_module(LEVELS[arguments[0]]).main(arguments[1:])
        return written
    if list(arguments[:1]) != ["plot"]:
        sys.exit(f"usage: python -m lab.hacking [{' | '.join(LEVELS)} | plot [FOLDER]]")
    return draw(Path(arguments[1]) if len(arguments) > 1 else RESULTS)


if __name__ == "__main__":
    main(sys.argv[1:])
