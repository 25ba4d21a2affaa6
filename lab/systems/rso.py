"""RSO's draw and importance sampling beside IRPSS's draw, with as many pairs among the candidates of each prompt.

Every arm has the labelled pairs with posterior labels, and one more pair for each prompt of six candidates, four of
them samples of the reference. RSO accepts a candidate with probability exp((r̃ - r̃_max)/τ), r̃_max over those left: two
accepted ones are distributed as the library's `opponent: importance` draws them (tests/importance/test_rso.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.importance.preferred import PreferredPairs, likelihood_ratio, preferred_pairs
from lab.exact.arms import Build, unweighted
from lab.exact.candidates import EVEN, VARIANCES, posterior_logistic, seen_twice, with_preferred_samples
from lab.exact.results import MAIN_BUDGET
from lab.exact.rewards import Floats
from lab.systems.comparison import compared, regimes_of, rows_of, values_of
from lab.systems.shown import Shown

Ints = NDArray[np.int64]
Drawn = tuple[PreferredPairs, Floats]
OURS = "IRPSS, uniform opponents"
CLAIM = (
    "Neither RSO's draw nor uniform pairs weighed by importance has a higher mean gain over DPO than IRPSS's draw "
    f"against uniform opponents: gold reward at a KL of {MAIN_BUDGET:g} nat, mean over the regimes of this table."
)
REGIMES = ("1,000 pairs", "2,000 pairs, 30 % noise", "2,000 pairs, off-policy")
FIRST_SEED, WORLDS = 9500, 10


def by_rejection(reward: Floats, prompt_of: Ints, q: Floats, seed: int) -> Drawn:
    """RSO: both by importance, without replacement; labels by the odds of the rewards."""
    drawn = preferred_pairs(reward, prompt_of, q, q, 1, seed=seed)
    return drawn, np.ones(len(drawn.chosen))


def by_rejection_ranked(reward: Floats, prompt_of: Ints, q: Floats, seed: int) -> Drawn:
    """RSO as its authors label: the higher reward wins, for sure."""
    drawn, factor = by_rejection(reward, prompt_of, q, seed)
    wins = reward[drawn.chosen] >= reward[drawn.rejected]
    chosen, rejected = np.where(wins, drawn.chosen, drawn.rejected), np.where(wins, drawn.rejected, drawn.chosen)
    return PreferredPairs(chosen, rejected, np.zeros(len(chosen))), factor


def weighed(reward: Floats, prompt_of: Ints, q: Floats, seed: int) -> Drawn:
    """Uniform pairs, each weighed by how much likelier RSO's draw is to be of these two: `opponent: weighed`."""
    even = np.ones_like(q)
    drawn = preferred_pairs(reward, prompt_of, even, even, 1, seed=seed)
    return drawn, likelihood_ratio(drawn, prompt_of, q, even)


POSTERIOR = VARIANCES["ν 1"]
BUILDS: Mapping[str, Build] = {
    "dpo": unweighted(),
    "no drawn pairs, labelled ones seen twice": seen_twice(posterior_logistic(POSTERIOR, EVEN)),
    OURS: with_preferred_samples(POSTERIOR),
    "RSO": with_preferred_samples(POSTERIOR, by_rejection),
    "RSO, hard labels by rank": with_preferred_samples(POSTERIOR, by_rejection_ranked),
    "uniform pairs weighed by importance": with_preferred_samples(POSTERIOR, weighed),
}
RIVALS = [name for name in BUILDS if name not in ("dpo", OURS) and not name.startswith("no drawn")]


def show(*, short: bool) -> Shown:
    names, pairs, worlds = (REGIMES[:1], 200, 2) if short else (REGIMES, None, WORLDS)
    regimes = regimes_of(names, BUILDS, "auto+4", first_seed=FIRST_SEED, pairs=pairs)
    with TemporaryDirectory() as parts:
        changes = compared(regimes, OURS, worlds, Path(parts))
    means = values_of(changes)
    holds = all(means[name] <= means[OURS] for name in RIVALS)
    rows, note = rows_of(changes, OURS, worlds, FIRST_SEED)
    return Shown(CLAIM, holds, rows, {"worlds": worlds, "first_seed": FIRST_SEED, "changes": changes}, note)
