"""The biased-preference curve: its arms are what they are called."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.exact.arms import build_arms
from lab.exact.policy import TrainSettings, train
from lab.exact.rewards import score
from lab.exact.worlds import World, WorldSettings, make_world
from lab.systems.family import E_DPO, METHODS, OURS, e_dpo

QUICK = TrainSettings(steps=20, batch=32, hidden=0)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(WorldSettings(120, longer_chosen=0.3), 0)


@pytest.mark.slow
def test_the_objective_of_the_library_trains_what_the_arm_of_the_laboratory_does(world: World) -> None:
    (own,) = build_arms(world, ("e_dpo",), 0)
    arms = [own, E_DPO(score(world, "ensemble", 0), 0)]
    (moved,) = train([world], [arms], QUICK, 0).parameters
    assert moved.detach().abs().max() > 0.1
    torch.testing.assert_close(moved[:, :, 0], moved[:, :, 1], rtol=1e-4, atol=1e-5)


def test_the_kl_on_all_completions_of_an_even_reference_is_the_exact_one(world: World) -> None:
    even = replace(world, train=replace(world.train, ref_logps=torch.full((120, 32), -math.log(32))))
    scores = score(even, "ensemble", 0)
    exact, none = e_dpo(forward_kl=1.0)(scores, 0), e_dpo()(scores, 0)
    counted = replace(exact, kl_completions=torch.arange(32).repeat(120, 1))
    (moved,) = train([even], [[exact, counted, none]], QUICK, 0).parameters
    torch.testing.assert_close(moved[:, :, 0], moved[:, :, 1], rtol=1e-4, atol=1e-5)
    assert (moved[:, :, 0] - moved[:, :, 2]).abs().max() > 0.01


@pytest.mark.slow
def test_the_members_of_the_family_like_length_the_more_the_higher_their_rate(world: World) -> None:
    model, _ = METHODS[OURS]
    more = make_world(WorldSettings(1000, longer_chosen=0.3), 0)
    gaps = score(more, model, 0).gaps
    length = more.train.length.gather(1, more.candidates).numpy()
    longer = np.sign(length[:, 0] - length[:, 1])
    assert (np.diff((gaps * longer[:, None]).mean(0)) > 0).all()


def test_completions_that_are_sampled_stand_behind_those_of_the_pairs(world: World) -> None:
    model, build = METHODS["e-DPO, family, γ 0.1, KL on two samples"]
    scores = score(world, model, 0)
    said = build(scores, 0).kl_completions
    assert said is not None and said.shape == (120, 2)
    assert scores.completions is not None
    assert (scores.completions[:, :2] == world.candidates.numpy()).all()
    assert (scores.completions[:, 2:] == said.numpy()).all()
