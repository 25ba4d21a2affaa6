"""The E-step against a plain loop, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from iwpo_fast.annotators.posterior import Round, posterior


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def plain(margins: list[list[list[float]]], share: list[float]) -> list[list[float]]:
    """γ by products of probabilities; margins of each annotator's votes under each type."""
    found = []
    for votes in margins:
        joint = [s * math.prod(1 / (1 + math.exp(-vote[k])) for vote in votes) for k, s in enumerate(share)]
        found.append([value / sum(joint) for value in joint])
    return found


def log_likelihood(margins: list[list[list[float]]]) -> np.ndarray:
    of = [-np.log1p(np.exp(-np.array(votes).reshape(-1, 3))).sum(axis=0) for votes in margins]
    return np.array(of)


def test_the_posterior_is_that_of_a_plain_loop(draw) -> None:
    margins = [draw.normal(size=(int(draw.integers(0, 6)), 3)).tolist() for _ in range(20)]
    share = [0.5, 0.3, 0.2]
    gamma = posterior(log_likelihood(margins), np.array(share))
    assert np.allclose(gamma, plain(margins, share), atol=1e-12)
    assert np.allclose(gamma.sum(axis=1), 1, atol=1e-12)


def test_who_has_no_vote_is_of_each_type_as_others_are(draw) -> None:
    gamma = posterior(np.zeros((1, 3)), np.array([0.5, 0.3, 0.2]))
    assert np.allclose(gamma, [[0.5, 0.3, 0.2]])


def test_names_of_types_mean_nothing(draw) -> None:
    likelihood, share = -draw.exponential(size=(7, 3)), np.array([0.5, 0.3, 0.2])
    order = [2, 0, 1]
    assert np.allclose(posterior(likelihood[:, order], share[order]), posterior(likelihood, share)[:, order])


def test_hundreds_of_votes_are_no_zero_by_zero(draw) -> None:
    gamma = posterior(np.array([[-5000.0, -5001.0]]), np.array([0.5, 0.5]))
    assert np.allclose(gamma[0], [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])


def test_a_type_that_nobody_is_of_may_come_back() -> None:
    gamma = posterior(np.array([[-100.0, 0.0]]), np.array([1.0, 0.0]))
    assert gamma[0, 1] > 0.99


def test_the_report_says_who_moved_and_how_likely_votes_are() -> None:
    before = np.array([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5]])
    found = Round(before, np.array([[-1.0, -9.0], [-9.0, -1.0], [0.0, 0.0]]), np.array([4, 4, 0]))
    report, share = found.report(), before.mean(axis=0)
    assert report["moved"] == 1 and report["without_votes"] == 1
    mixed = np.log(share[0] * np.exp([-1, -9, 0]) + share[1] * np.exp([-9, -1, 0])).sum() / 8
    assert report["log_likelihood"] == pytest.approx(mixed)
    gamma = found.after
    assert report["share"] == pytest.approx(gamma.mean(axis=0))
    of_first = (gamma[:, 0] @ [-1, -9, 0]) / (gamma[:, 0] @ [4, 4, 0])
    assert report["of_types"][0] == pytest.approx(of_first)
    assert report["largest_change"] == pytest.approx(np.abs(gamma - before).max())


def test_entropy_is_that_of_a_coin_where_nothing_is_known() -> None:
    even = Round(np.full((3, 2), 0.5), np.zeros((3, 2)), np.ones(3, dtype=np.int64))
    assert even.report()["entropy"] == pytest.approx(math.log(2))
    assert even.report()["moved"] == 0
