from __future__ import annotations

import json

import numpy as np
import pytest
from reward_worlds import make_world, score
from scipy.special import expit

from iwpo_fast.rewards.report import calibration_error, overlap, pair_accuracy, report_lines


def labelled_gaps(slope: float, count: int, seed: int = 0) -> np.ndarray:
    """Gaps whose sign is right with probability σ(slope |Δ|)."""
    draw = np.random.default_rng(seed)
    gaps = draw.standard_normal(count)
    return np.where(draw.random(count) < expit(slope * np.abs(gaps)), np.abs(gaps), -np.abs(gaps))


def test_accuracy_counts_ties_half() -> None:
    assert pair_accuracy(np.array([1.0, -1.0, 0.0, 2.0])) == pytest.approx(2.5 / 4)


def test_overlap_is_one_minus_the_area_under_the_curve() -> None:
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    chosen, rejected = draw.integers(0, 9, 200) + 1.0, draw.integers(0, 9, 300).astype(float)
    area = roc_auc_score(np.repeat([1, 0], [200, 300]), np.concatenate([chosen, rejected]))
    assert overlap(chosen, rejected) == pytest.approx(1 - area)


def test_calibrated_gaps_have_no_calibration_error_and_overconfident_ones_have() -> None:
    gaps = labelled_gaps(1.0, 200_000)
    assert calibration_error(gaps) < 0.01
    assert calibration_error(10 * gaps) == pytest.approx(expit(10 * np.abs(gaps)).mean() - (gaps > 0).mean(), abs=0.01)


@pytest.mark.slow
def test_the_report_is_a_table_and_json() -> None:
    report = score(make_world(pairs=300)).report
    lines = list(report_lines(report))
    assert len(lines) == 1 + 3 + 1 + 1
    assert lines[4].split()[:2] == ["all", "300"]
    assert lines[5].startswith("reward heads: ridge ")
    stored = json.loads(json.dumps(report))
    assert [row["pairs"] for row in stored["clusters"]] == [row["pairs"] for row in report["clusters"]]
    assert stored["penalties"]["ridge"] == report["penalties"]["ridge"]
