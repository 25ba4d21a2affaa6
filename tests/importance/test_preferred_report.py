"""What is said of preferred pairs."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from iwpo_fast.importance.preferred import Preferred, PreferredPairs
from iwpo_fast.importance.preferred_report import preferred_lines, preferred_report, save_preferred_plot
from iwpo_fast.rewards import PairTable

# Prompt 0 has responses 0, 2 and 4, prompt 1 has 1 and 3; labelled are 0 over 2 and 3 over 1.
TABLE = PairTable(np.array([0, 1]), np.array([0, 3]), np.array([2, 1]), np.array([0, 1, 0, 1, 0]))
Q = np.array([0.2, 0.5, 0.3, 0.5, 0.5])
REWARD = np.array([0.0, 1.0, 0.5, 1.0, 3.0])
PAIRS = PreferredPairs(np.array([4, 4, 2, 0]), np.array([0, 0, 0, 4]), np.array([0.05, 0.05, 0.4, 0.95]))
PREFERRED = Preferred(PAIRS, np.ones(4), Q, REWARD, TABLE.prompt_of, np.inf)
SMOOTHING = np.array([0.0, 0.6])


def texts(chosen: int, rejected: int) -> dict[str, str]:
    return {"prompt": f"Question {TABLE.prompt_of[chosen]}", "chosen": f"no {chosen}\n", "rejected": f"no {rejected}"}


def report() -> dict:
    return preferred_report(PREFERRED, TABLE, SMOOTHING, texts)


def test_shares_are_of_prompts_and_of_drawn_pairs() -> None:
    said = report()
    assert said["pairs"] == 4
    assert said["best_not_chosen"] == 1.0  # 4 is best in prompt 0, and 1, which comes before its equal 3, in prompt 1
    assert said["importance_not_chosen"] == pytest.approx(1 - (0.2 + 0.5) / 2)
    assert said["against_label"] == 0.25  # 2 over 0
    effective = sorted([1 / (0.2**2 + 0.3**2 + 0.5**2), 2.0])
    assert said["effective"]["0.5"] == pytest.approx(np.mean(effective))
    assert sum(said["importance_counts"]) == 5 and sum(said["effective_counts"]) == 2


def test_surprises_come_once_each_and_the_largest_first() -> None:
    said = report()
    assert [row["text"] for row in said["beaten"]] == [texts(4, 0), texts(2, 0)]
    assert [row["chosen_reward"] - row["rejected_reward"] for row in said["beaten"]] == [3.0, 0.5]
    assert [(row["label_smoothing"], row["text"]) for row in said["doubted"]] == [(0.6, texts(3, 1))]
    assert len(preferred_report(PREFERRED, TABLE, SMOOTHING, texts, most=1)["beaten"]) == 1


def test_lines_are_short_and_json_has_no_infinity() -> None:
    assert json.loads(json.dumps(report(), allow_nan=False))["tau"] == "inf"
    lines = preferred_lines(report())
    assert lines[0] == "4 preferred pairs drawn, 25.0% of them a labelled pair turned round"
    assert "  chosen    no 4" in lines
    assert all(len(line) <= 120 and "\n" not in line for line in lines)


@pytest.mark.slow
def test_the_plot_differs_with_importance(tmp_path: Path) -> None:
    pictures = []
    for name, q in (("some", Q), ("one", np.array([0.0, 1.0, 0.0, 0.0, 1.0]))):
        said = preferred_report(PREFERRED._replace(q=q), TABLE, SMOOTHING, texts)
        save_preferred_plot(tmp_path / f"{name}.png", said)
        pictures.append(matplotlib.image.imread(tmp_path / f"{name}.png"))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
