"""Where EM starts: clusters of tastes, or what a file says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from iwpo_fast.annotators.start import FIRM, clusters_of, given, shares_of, tastes_of
from iwpo_fast.rewards import PairFeatures, PairTable

NAMES = ("ann", "bob")


def test_a_taste_is_the_mean_difference_of_what_was_chosen_and_what_was_not() -> None:
    table = PairTable.plain(np.arange(3))
    response = np.array([[1.0, 0], [0, 1], [3, 0], [0, 0], [5, 5], [5, 4]])
    features = PairFeatures(table, np.zeros((3, 2)), response)
    tastes = tastes_of(features, np.array([0, 0, 2]), 4)
    assert tastes.tolist() == [[2, -0.5], [0, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_opposite_tastes_are_two_clusters_the_larger_first(seed) -> None:
    draw = np.random.default_rng(seed)
    of, taste = np.arange(30) % 3 == 2, draw.normal(size=64)
    votes = np.where(of[:, None], -taste, taste) + 0.5 * draw.normal(size=(30, 64))
    assert (clusters_of(votes, 2, seed) == of).all()


def test_who_is_all_alike_is_of_one_cluster() -> None:
    assert clusters_of(np.ones((5, 8)), 2, 0).tolist() == [0] * 5


def test_shares_are_near_to_the_cluster_and_sum_to_one() -> None:
    assert shares_of(np.array([1]), 3).tolist() == [pytest.approx([(1 - FIRM) / 2, FIRM, (1 - FIRM) / 2])]
    assert shares_of(np.array([0, 0]), 1).tolist() == [[1], [1]]


def write(path: Path, said: object) -> str:
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    return str(path)


def test_a_file_gives_types_or_shares(tmp_path) -> None:
    found = given(write(tmp_path / "start.json", {"bob": [0.25, 0.75], "ann": 0, "cid": 1}), NAMES, 2)
    assert found.tolist() == [pytest.approx([FIRM, 1 - FIRM]), [0.25, 0.75]]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"ann": 0}, "has no type of the annotator bob (the first of 1): give all."),
        (
            {"ann": 0, "bob": 2},
            "gives the annotator bob 2: make it a type from 0 to 1, or a list of 2 shares whose sum",
        ),
        ({"ann": True, "bob": 1}, "gives the annotator ann true: make it"),
        ({"ann": [0.5, 0.6], "bob": 1}, "gives the annotator ann [0.5, 0.6]: make it"),
        ({"ann": [1.0], "bob": 1}, "gives the annotator ann [1.0]: make it"),
        (["ann"], "holds no object of JSON"),
        ("{", "cannot be read ("),
        ('{"ann": 0, "ann": 1}', "cannot be read ("),
    ],
)
def test_what_a_file_may_not_say_is_one_sentence(tmp_path, said, sentence) -> None:
    path = write(tmp_path / "start.json", said)
    with pytest.raises(ValueError, match=r"types\.start") as refused:
        given(path, NAMES, 2)
    assert sentence in str(refused.value) and str(refused.value).count(". ") == 0
