"""DRPO beside its direct method, importance sampling and DPO, where judge, reference, both or neither are right.

In worlds of one prompt (`lab.exact.judges`). Without a clip an estimate is linear in π, V = Σ_y π(y) q(y), and
π ∝ π_0 exp(q/β) is the best policy of it. All policies are compared at equal KL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lab.exact.compare import Interval, mean_interval
from lab.exact.doubly_robust import DoublyRobust
from lab.exact.judges import (
    KL,
    MANY,
    RESPONSES,
    STEPS,
    Estimator,
    Worlds,
    at_kl,
    direction,
    dpo,
    estimate,
    shares_of,
    worlds_of,
    worth,
)
from lab.exact.results import as_numbers
from lab.systems.shown import Shown

SEED, WORLDS, COUNTS = 900, 200, (500, 2000, 8000)
CLAIMED, NEAR, A_TENTH, A_QUARTER = 2000, 1e-9, 0.1, 0.25
CLAIM = (
    "With ever more pairs DRPO's estimate without a clip is the truth in every world, to 1e-9, wherever the judge or "
    f"the reference is right; its policies of {CLAIMED:,} pairs then lose on average at most a tenth of what a wrong "
    "judge costs the direct method; where both are wrong, or the judge is and ratios are clipped as the authors do, "
    "more than a quarter of it is lost."
)


class Method(NamedTuple):
    """A row of the table: DPO, where there is no estimator."""

    name: str
    estimator: Estimator | None = None

    @property
    def key(self) -> str:
        judge, reference = self.are_right
        parts = [f"{right} {part}" for part, right in (("judge", judge), ("reference", reference)) if right]
        return ", ".join([self.name, *parts])

    @property
    def are_right(self) -> tuple[str, str]:
        """Whether judge and reference are `right` or `wrong`, or nothing where there is none."""
        words = {True: "right", False: "wrong", None: ""}
        return ("", "") if self.estimator is None else (words[self.estimator.judge], words[self.estimator.reference])


CLIP = DoublyRobust.clip
CELLS = [(judge, reference) for judge in (True, False) for reference in (True, False)]
SURE, MISLED = (Method("direct method", Estimator(judge=right)) for right in (True, False))
SAMPLING = [Method("importance sampling, not clipped", Estimator(reference=right)) for right in (True, False)]
UNCLIPPED = [Method("DRPO, not clipped", Estimator(*cell)) for cell in CELLS]
CLIPPED = [Method(f"DRPO, clipped at {CLIP:g}", Estimator(*cell, CLIP)) for cell in CELLS]
METHODS = (Method("DPO"), SURE, MISLED, *SAMPLING, *UNCLIPPED, *CLIPPED)
SOUND, BROKEN = UNCLIPPED[:3], [UNCLIPPED[3], *CLIPPED[2:]]
"""DRPO where judge or reference is right and nothing is clipped; and where it should not help."""
Found = Mapping[str, Mapping[str, Tensor]]
"""By method and by count of pairs: [W]."""


def show(*, short: bool) -> Shown:
    worlds = worlds_of(SEED, 20 if short else WORLDS)
    counts = (CLAIMED, MANY) if short else (*COUNTS, MANY)
    shares = {named(count): shares_of(worlds, count, SEED) for count in counts}
    best = at_kl(worlds, worlds.gain)
    truth = worth(worlds, best)
    lost = {
        method.key: {name: truth - worth(worlds, learnt(worlds, method, of)) for name, of in shares.items()}
        for method in METHODS
    }
    errors = {
        method.key: {name: estimate(worlds, method.estimator, best, of) - truth for name, of in shares.items()}
        for method in METHODS
        if method.estimator is not None
    }
    numbers: dict[str, Any] = {"seed": SEED, "worlds": len(truth), "kl": KL, "best": round(float(truth.mean()), 4)}
    numbers |= {"lost": as_intervals(lost), "mean_squared_error": as_intervals(squares_of(errors))}
    return Shown(CLAIM, holds_in(lost, errors), rows_of(lost, errors), numbers, note_of(worlds, best))


def named(count: float) -> str:
    return "ever more" if count == MANY else f"{count:,}"


def learnt(worlds: Worlds, method: Method, shares: Tensor) -> Tensor:
    """[W, Y], log-probs of the policy of a method at the KL."""
    scores = dpo(shares) if method.estimator is None else direction(worlds, method.estimator, shares)
    return at_kl(worlds, scores)


def holds_in(lost: Found, errors: Found) -> bool:
    """Whether the claim does."""
    mean = {name: float(of[named(CLAIMED)].mean()) for name, of in lost.items()}
    costs = mean[MISLED.key]
    exact = all(float(errors[method.key][named(MANY)].abs().max()) < NEAR for method in SOUND)
    sound = all(mean[method.key] <= A_TENTH * costs for method in SOUND)
    return exact and sound and all(mean[method.key] > A_QUARTER * costs for method in BROKEN)


def as_intervals(found: Found) -> dict[str, dict[str, dict[str, float]]]:
    """Means over worlds, in points of a probability."""
    return {
        method: {count: as_numbers(points(of)) for count, of in by_count.items()} for method, by_count in found.items()
    }


def squares_of(found: Found) -> Found:
    """Such that their means in points are mean squares of points."""
    return {method: {count: 100 * of.square() for count, of in by_count.items()} for method, by_count in found.items()}


def points(of: Tensor) -> Interval:
    return mean_interval(100 * of.numpy())


def rows_of(lost: Found, errors: Found) -> list[list[str]]:
    of_error = (named(MANY), named(CLAIMED))
    head = ["", "judge", "reference", *(f"error of V, {count} pairs" for count in of_error)]
    rows = [[*head, *(f"lost, {count} pairs" for count in lost[MISLED.key])]]
    for method in METHODS:
        off = errors.get(method.key)
        wrong = [f"{100 * float(off[count].square().mean().sqrt()):.2f}" if off else "" for count in of_error]
        cells = [_cell(points(of)) for of in lost[method.key].values()]
        rows.append([method.name, *method.are_right, *wrong, *cells])
    return rows


def note_of(worlds: Worlds, best: Tensor) -> str:
    start, top = (100 * float(worth(worlds, logps).mean()) for logps in (worlds.ref_logps[:, 0], best))
    ratio = float((best - worlds.drawn).exp().amax(1).median())
    return (
        f"{len(best)} worlds of seed {SEED}, {RESPONSES} responses each. V is how often a response of the policy is "
        f"preferred to one of those that pairs were drawn from: {start:.1f} % where training begins, {top:.1f} % for "
        f"the best policy at a KL of {KL:g} nat. Errors of V are of that policy, root mean squares over worlds in "
        f"points; its largest ratio is {ratio:.1f} in the median world. *Lost* is how far V of the policy that was "
        "learnt is below that of the best at equal KL, in points, means with 95 % intervals. The right judge is the "
        f"truth itself, which nobody has. Where ratios are clipped, {STEPS} steps of Adam climb with the authors' "
        "gradient, which need not come to rest: the lower bound of the ratio pushes down responses that the judge "
        "thought too much of, however improbable they are. Sizes, steps and the claim were chosen in seeds "
        "0, 1, 700 and 800."
    )


def _cell(value: Interval) -> str:
    return f"{round(value.mean, 2) + 0.0:.2f} ± {value.high - value.mean:.2f}"
