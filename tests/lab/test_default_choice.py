"""The library's default by its rule."""

from __future__ import annotations

from typing import Any

from lab.choice import RIVAL, markdown, scores


def change(mean: float, *, sure: bool = True) -> dict[str, float]:
    half = 0.5 if sure else 100.0
    return {"mean": mean, "low": mean - half, "high": mean + half}


def level(**of_arms: dict[str, float]) -> dict[str, Any]:
    rows = [{"arm": arm, "budgets": [0.4, 0.8], "change": made} for arm, made in of_arms.items()]
    other = [{"arm": "good", "budgets": [0.4], "change": change(1e6)}]
    return {
        "budgets": [0.4, 0.8],
        "comparisons": [{"arm": "dpo", "budgets": [0.4, 0.8], "change": None}, *rows, *other],
    }


def test_the_best_mean_of_ratios_that_is_worse_than_dpo_nowhere_comes_first() -> None:
    names = ["harmful", "good", RIVAL, "mild"]
    exact = {
        "finalists": names,
        "choice": {
            "candidates": {
                "harmful": {"mean": change(9.0), "worse": 1},
                "good": {"mean": change(3.0), "worse": 0},
                RIVAL: {"mean": change(2.0), "worse": 0},
                "mild": {"mean": change(1.0), "worse": 0},
            }
        },
    }
    ten = level(harmful=change(90), good=change(30), mild=change(-5, sure=False), **{RIVAL: change(20)})
    thirty = level(harmful=change(90), good=change(50), mild=change(10), **{RIVAL: change(60)})
    found = scores(exact, [ten, thirty])
    assert [row["name"] for row in found] == ["good", RIVAL, "mild", "harmful"]
    assert found[0]["score"] == (3 / 2 + 80 / 80) / 2 and found[1]["score"] == 1
    worse = scores(exact, [level(harmful=change(90), good=change(-30), mild=change(5), **{RIVAL: change(20)}), thirty])
    assert next(row["worse"] for row in worse if row["name"] == "good") == 1
    assert "| good | 1.250 | 0 |" in markdown(found)
