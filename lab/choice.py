"""The library's default by the rule of `lab.exact.defaults`, from the results of both levels.

python -m lab.choice
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lab.experiment import RESULTS, as_cell, as_table

RIVAL = "d-DPO; linear"
OF_BOTH = ("language-model-choice.json", "language-model-choice-noise-0.3.json")


def scores(exact: dict[str, Any], language_models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The finalists, best first: the mean of two ratios to d-DPO, and whether a finalist is worse than DPO anywhere."""
    choice = exact["choice"]["candidates"]
    changes = [_changes(result) for result in language_models]
    rows = []
    for name in exact["finalists"]:
        of_exact = choice[name]["mean"]["mean"] / choice[RIVAL]["mean"]["mean"]
        of_models = sum(c[name]["mean"] for c in changes) / sum(c[RIVAL]["mean"] for c in changes)
        worse = choice[name]["worse"] + sum(c[name]["high"] < 0 for c in changes)
        rows.append(
            {
                "name": name,
                "exact": choice[name]["mean"],
                "language_models": [c[name] for c in changes],
                "worse": worse,
                "score": (of_exact + of_models) / 2,
            }
        )
    return sorted(rows, key=lambda row: (row["worse"] > 0, -row["score"]))


def _changes(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Change of each arm at the mean of all budgets of KL."""
    rows = [row for row in result["comparisons"] if list(row["budgets"]) == list(result["budgets"])]
    return {row["arm"]: row["change"] for row in rows if row["change"]}


def markdown(rows: list[dict[str, Any]]) -> str:
    head = (
        "finalist",
        "score",
        "worse than DPO in",
        "exact level, mean",
        "language model, 10 % flipped",
        "30 % flipped",
    )
    cells = [
        (row["name"], f"{row['score']:.3f}", str(row["worse"]), *map(as_cell, (row["exact"], *row["language_models"])))
        for row in rows
    ]
    return as_table([head, *cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    folder = parser.parse_args().results
    exact, *models = (json.loads((folder / name).read_text()) for name in ("exact-choice.json", *OF_BOTH))
    text = markdown(scores(exact, models))
    (folder / "choice.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
