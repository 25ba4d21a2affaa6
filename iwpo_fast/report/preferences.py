"""Held-out pairs before and after training, in all and by cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from iwpo_fast.evaluation.preference import accuracy_of_prompts, paired_difference, parts_by, wins
from iwpo_fast.report.run_files import RunFiles


class Preference(NamedTuple):
    """How often the model prefers the better of two completions.

    Attributes:
        cluster: None for all pairs.
        prompts: of the pairs; as many as pairs where nothing says which prompt each is of.
        before, after: share of the pairs, with `low` and `high` of the latter's 95 % interval, which are NaN
            where several pairs are all of one prompt.
        gain: difference, with its interval.
        margin: mean, after training.
        is_chance: before training the model was its own reference, so that every margin was 0.
    """

    cluster: int | None
    pairs: int
    prompts: int
    before: float
    after: float
    low: float
    high: float
    gain: tuple[float, float, float]
    margin: float
    is_chance: bool

    @property
    def name(self) -> str:
        return "all pairs" if self.cluster is None else f"cluster {self.cluster}"

    @property
    def is_better(self) -> bool:
        return (self.low > 0.5) if self.is_chance else self.gain[1] > 0

    @property
    def is_worse(self) -> bool:
        return (self.high < 0.5) if self.is_chance else self.gain[2] < 0


def preferences(run: RunFiles) -> list[Preference]:
    """All pairs first, then each cluster; empty if nothing was held out."""
    margins = run.margins()
    return of_margins(margins) if margins and len(margins["margin"]) else []


def of_margins(margins: Mapping[str, np.ndarray]) -> list[Preference]:
    """The same from `margin`, `before`, `cluster` and `prompt`, [P] each; earlier versions kept no prompts."""
    after, before, cluster = (margins[name] for name in ("margin", "before", "cluster"))
    prompt = margins.get("prompt", np.arange(len(after)))
    groups = {None: np.ones(len(after), dtype=bool)} | {k: cluster == k for k in np.unique(cluster).tolist()}
    is_chance = not before.any()
    return [
        _preference(k, before[inside], after[inside], prompt[inside], is_chance=is_chance)
        for k, inside in groups.items()
    ]


def _preference(
    cluster: int | None, before: np.ndarray, after: np.ndarray, prompt: np.ndarray, *, is_chance: bool
) -> Preference:
    was, right = wins(before), wins(after)
    share, low, high = accuracy_of_prompts(right, prompt)
    gain = paired_difference(parts_by(prompt, right), parts_by(prompt, was))
    return Preference(
        cluster,
        pairs=len(after),
        prompts=len(np.unique(prompt)),
        before=float(was.mean()),
        after=share,
        low=low,
        high=high,
        gain=gain,
        margin=float(after.mean()),
        is_chance=is_chance,
    )
