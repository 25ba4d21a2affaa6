from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.image
from importance_cases import FULL, make_rewards

from iwpo_fast.importance import pair_weights, weight_report
from iwpo_fast.importance.histogram import save_histogram


def test_the_histogram_is_a_picture_that_differs_with_the_weights(tmp_path: Path) -> None:
    rewards = make_rewards(0)
    pictures = []
    for gamma in (0.0, 2.0):
        path = tmp_path / "plots" / f"{gamma}.png"
        save_histogram(path, weight_report(pair_weights(rewards, replace(FULL, gamma=gamma), seed=0), rewards))
        pictures.append(matplotlib.image.imread(path))
    assert pictures[0].shape == pictures[1].shape == (330, 660, 4)
    assert (pictures[0] != pictures[1]).any()
    assert len(list((tmp_path / "plots").iterdir())) == 2
