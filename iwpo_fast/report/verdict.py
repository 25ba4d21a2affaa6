"""One sentence on what training has done, from the intervals alone."""

from __future__ import annotations

from collections.abc import Mapping

from iwpo_fast.evaluation.arms import FIRST, OWN, Row
from iwpo_fast.report.numbers import count, interval, percent, points
from iwpo_fast.report.preferences import Preference, preferences
from iwpo_fast.report.run_files import RunFiles


def verdict(run: RunFiles) -> str:
    """The sentence; for a run that is not finished, what is still to do."""
    if run.unfinished:
        return f"This run has not finished: {', '.join(run.unfinished)} still to do."
    found = preferences(run)
    if not found:
        return "No pair was held out, so nothing can be said of what training has done."
    return sentence(found[0], run.arms())


def sentence(all_pairs: Preference, arms: Mapping[str, Row]) -> str:
    """The sentence of a finished run, from its held-out pairs and the arms beside it, which may be none."""
    return f"{_before_and_after(all_pairs)}{_beside_dpo(arms)}."


def _before_and_after(all_pairs: Preference) -> str:
    share = (
        f"The trained model prefers the better answer in {percent(all_pairs.after)} of {count(all_pairs.pairs)} "
        f"held-out pairs (95\u00a0% interval {interval(all_pairs.low, all_pairs.high)})"
    )
    before = "chance, where it was before training" if all_pairs.is_chance else f"{percent(all_pairs.before)} before"
    if all_pairs.is_better:
        return f"{share}, more than {before}"
    if all_pairs.is_worse:
        return f"{share}, less than {before}"
    return f"{share}, which cannot be told from {before}"


def _beside_dpo(arms: Mapping[str, Row]) -> str:
    if OWN not in arms or "difference" not in arms[OWN]:
        return ""
    if arms[FIRST].get("same_as") == OWN:
        return "; plain DPO is the same training"
    _, low, high = arms[OWN]["difference"]
    if low > 0 or high < 0:
        return f"; it is {'better' if low > 0 else 'worse'} than plain DPO, by {points(arms[OWN]['difference'])}"
    return f"; against plain DPO it is {points(arms[OWN]['difference'])}, so no difference is shown"
