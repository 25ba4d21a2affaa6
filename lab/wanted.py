"""What was asked of the library's default before it was chosen, and what came, from the results of both levels.

python -m lab.wanted
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lab.exact.compare import relative_change
from lab.experiment import RESULTS, as_cell, as_table
from lab.language_model.compare import BASELINE, at_budget

RIVAL = "d-DPO; linear"
DEFAULTS = {"default": "logistic, ν 1; auto", "with 8 sampled": "logistic, ν 1, 8 sampled; auto"}
LEAST_MEAN, LEAST_CHANGE, LEAST_WIN = 3.7, 35.0, 6.3

Candidates = Mapping[str, Any]
Row = tuple[str, str, str, str, str]
"""What was wanted, of which of `DEFAULTS`, where, what was measured, and whether that is it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    folder = parser.parse_args().results
    text = table(folder)
    (folder / "wanted.md").write_text(text + "\n")
    print(text)


def table(folder: Path) -> str:
    """Markdown of everything that was wanted, from the results in a folder."""

    def read(name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return loaded

    exact = read("exact-choice")
    elsewhere = exact["confirmation"]["candidates"] | read("exact-confirmed")["confirmation"]["candidates"]
    worlds = {"worlds of the choice": exact["choice"]["candidates"], "other worlds": elsewhere}
    models = read("language-model-choice"), read("language-model-choice-noise-0.3")
    rows: list[Row] = []
    for which, arm in DEFAULTS.items():
        for where, candidates in worlds.items():
            rows += of_exact(candidates, arm, which, where)
        rows += of_language_models(*models, arm, which)
    return as_table(
        [("wanted", "of the", "where", "measured", "holds"), *sorted(rows, key=lambda row: WISHES.index(row[0]))]
    )


def of_exact(candidates: Candidates, arm: str, which: str, where: str) -> list[Row]:
    """The three wishes of the exact level, in worlds of one kind."""
    regimes, mean = candidates[arm]["regimes"], candidates[arm]["mean"]
    of_rival = [name for name, change in candidates[RIVAL]["regimes"].items() if change["low"] > 0]
    missed = [name for name in of_rival if not regimes[name]["low"] > 0]
    harmed = [name for name, change in regimes.items() if change["high"] < 0]
    reached = f"{len(of_rival) - len(missed)} of {len(of_rival)}"
    but = "".join(f"; not in {name}: {as_cell(regimes[name])}" for name in missed)
    return [
        (WISHES[0], which, where, reached + but, "no" if missed else "yes"),
        (WISHES[1], which, where, f"worse in {len(harmed)} of {len(regimes)}", "no" if harmed else "yes"),
        (WISHES[2], which, where, as_cell(mean), answer(mean, LEAST_MEAN)),
    ]


def of_language_models(ten: Mapping[str, Any], thirty: Mapping[str, Any], arm: str, which: str) -> list[Row]:
    """The wishes of the language model, paired by seed."""
    changes = [
        (WISHES[3], "10 %", _change(ten, arm, BASELINE, "scaled_gold"), LEAST_CHANGE),
        (WISHES[4], "10 %", _change(ten, arm, RIVAL, "scaled_gold"), 0.0),
        (WISHES[5], "30 %", _change(thirty, arm, RIVAL, "scaled_gold"), 0.0),
        (WISHES[6], "10 %", _change(ten, arm, BASELINE, "win_rate"), LEAST_WIN),
    ]
    return [
        (wish, which, f"{noise} flipped", as_cell(change), answer(change, least))
        for wish, noise, change, least in changes
    ]


WISHES = (
    "exact level: better than DPO wherever d-DPO is",
    "exact level: worse than DPO nowhere",
    f"exact level: mean of {LEAST_MEAN} % of DPO's gain or more",
    f"language model: {LEAST_CHANGE:.0f} % of DPO's gain or more",
    "language model: above d-DPO, in % of its gain",
    "language model: not below d-DPO, in % of its gain",
    f"language model: win rate {LEAST_WIN} % above DPO's, relative",
)


def _change(result: Mapping[str, Any], arm: str, base: str, measure: str) -> dict[str, float]:
    """Relative change of a measure, at the mean of the budgets of KL, from one arm to another, in per cent."""
    paths, budgets = result["paths"], result["budgets"]
    seeds = sorted(paths[arm].keys() & paths[base].keys())

    def values(name: str) -> np.ndarray:
        return np.array([np.mean([at_budget(paths[name][seed], measure, b)[0] for b in budgets]) for seed in seeds])

    return dict(vars(relative_change(values(arm), values(base))))


def answer(change: Mapping[str, float], least: float) -> str:
    """Whether a change reaches a number, and whether its interval lies on one side of it."""
    reached = change["mean"] >= least
    sure = change["low"] >= least if reached else change["high"] < least
    return ("yes" if reached else "no") + ("" if sure else ", within chance")


if __name__ == "__main__":
    main()
