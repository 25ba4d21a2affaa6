"""Expected calibration error of margins in log-odds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from iwpo_fast.evaluation.calibration_error import calibration_error, error_by_chance


def drawn(scale: float, n: int = 20_000) -> np.ndarray:
    """Margins that are `scale` times the log-odds from which the better completions are drawn."""
    rng = np.random.default_rng(0)
    odds = rng.normal(size=n) * 2
    return np.where(rng.random(n) < expit(odds), odds, -odds) * scale


def error(margins: np.ndarray) -> float:
    return calibration_error(margins)(np.ones(len(margins)))


def test_margins_that_are_the_log_odds_have_the_error_of_chance_alone() -> None:
    margins = drawn(1.0)
    assert error(margins) == pytest.approx(error_by_chance(margins, seed=1), abs=0.005)
    assert error(margins) < 0.01


def test_margins_that_are_too_sure_or_too_unsure_have_an_error() -> None:
    assert error(drawn(4.0)) > 0.1 and error(drawn(0.1)) > 0.1


def test_margins_of_nothing_say_one_half_and_are_right_in_half() -> None:
    assert error(np.zeros(100)) == 0


def test_one_bin_is_confidence_minus_accuracy() -> None:
    margins = np.array([2.0, 2.0, -2.0, 2.0])
    assert calibration_error(margins, bins=1)(np.ones(4)) == pytest.approx(expit(2.0) - 0.75)
    weighted = calibration_error(margins, bins=1)(np.array([1.0, 1.0, 0.0, 0.0]))
    assert weighted == pytest.approx(1 - expit(2.0))
