from __future__ import annotations

import numpy as np
import pytest
from reward_worlds import World, make_world, score


def test_log_probs_of_another_number_of_responses_are_refused() -> None:
    world = make_world(pairs=40)
    with pytest.raises(ValueError, match="give one for each"):
        score(world, mean_logps=np.zeros(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 0}, "rewards.folds is 0"),
        ({"ensemble": 0}, "rewards.ensemble is 0"),
        ({"ridge": 0.0}, "rewards.ridge is 0.0"),
        ({"residual": -1.0}, "rewards.residual is -1.0"),
        ({"overlap": -0.1}, "rewards.overlap is -0.1"),
        ({"centring": float("nan")}, "rewards.centring is nan"),
        ({"calibration_strength": -1.0}, "rewards.calibration_strength is -1.0"),
        ({"max_reward": 0.0}, "rewards.max_reward is 0.0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        score(make_world(pairs=20), **settings)


def test_shapes_that_do_not_fit_are_refused() -> None:
    world = make_world(pairs=20)
    with pytest.raises(ValueError, match="the table has 40 responses"):
        score(World(world.prompt_features, world.response_features[:-1], world.table, world.cluster))
    with pytest.raises(ValueError, match="19 clusters of prompts do not fit"):
        score(World(world.prompt_features, world.response_features, world.table, world.cluster[:-1]))
    with pytest.raises(ValueError, match="3 prompt keys for 20 prompts"):
        score(world, prompt_keys=[1, 2, 3])
    with pytest.raises(ValueError, match=r"rewards\.folds is 21, but there are 20 different prompts: lower it"):
        score(world, folds=21)
    with pytest.raises(ValueError, match=r"rewards\.folds is 2, but there are 1 different prompts"):
        score(world, folds=2, prompt_keys=["same"] * 20)
    with pytest.raises(ValueError, match="All 20 pairs fall into one of 4 folds"):
        score(world, folds=1, prompt_keys=["same"] * 20)
