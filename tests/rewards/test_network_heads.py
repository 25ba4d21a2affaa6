"""Networks beside linear heads: when they are taken, what they may see, and that a file keeps them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from reward_worlds import FIXED, World, make_world, score

from iwpo_fast.config import RewardConfig
from iwpo_fast.config_checks import check_reward_settings
from iwpo_fast.rewards import PairTable, report_lines
from iwpo_fast.rewards import network_choice as choice_module
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.directions import directions
from iwpo_fast.rewards.network_fit import Examples, Networks, total_loss, train
from iwpo_fast.rewards.network_heads import NetworkHeads


def bent_world(pairs: int = 1200, squares: float = 1.0, seed: int = 0) -> World:
    """Rewards of which a part is quadratic in the features, so that linear heads do not see it."""
    draw = np.random.default_rng(seed)
    plain = make_world(pairs=pairs, features=16, residual=0.0, seed=seed)
    features = plain.response_features
    reward = features[:, 0] + squares * np.square(features[:, 1:3]).sum(axis=1)
    second = draw.random(pairs) > 1 / (1 + np.exp(-(reward[::2] - reward[1::2])))
    prompt = np.arange(pairs)
    table = PairTable(prompt, 2 * prompt + second, 2 * prompt + ~second, prompt.repeat(2))
    return dataclasses.replace(plain, table=table)


@pytest.fixture
def one_choice(monkeypatch) -> None:
    """Of width, decay and rounds, so that these do not depend on labels."""
    monkeypatch.setattr(choice_module, "WIDTHS", (8,))
    monkeypatch.setattr(choice_module, "DECAYS", (1.0,))
    monkeypatch.setattr(choice_module, "MOST_ROUNDS", 1)


@pytest.mark.slow
def test_auto_takes_networks_where_rewards_are_bent_and_they_are_right_more_often() -> None:
    world = bent_world()
    linear, auto = score(world, **FIXED), score(world, **FIXED, heads="auto")
    found = auto.report["penalties"]["networks"]
    assert found["taken"] and found["held_out_gain"] > found["standard_error"] > 0
    assert isinstance(auto.heads, NetworkHeads)
    assert auto.report["total"]["accuracy"] > linear.report["total"]["accuracy"] + 0.05
    assert (auto.reliability > 0.9).all() and auto.report["total"]["calibration_error"] < 0.06
    assert any("taken, held-out log-likelihood +0." in line for line in report_lines(auto.report))


@pytest.mark.slow
def test_auto_keeps_linear_heads_bitwise_where_rewards_are_linear() -> None:
    world = make_world(residual=0.0)
    linear, auto = score(world), score(world, heads="auto")
    assert not auto.report["penalties"].pop("networks")["taken"]
    assert auto.report == linear.report
    for name in ("raw", "calibrated", "members_calibrated", "trust", "slope", "centre", "reliability"):
        assert np.array_equal(getattr(auto, name), getattr(linear, name))


@pytest.mark.slow
def test_networks_are_taken_when_asked_for_and_are_the_same_each_time(one_choice) -> None:
    first, again = (score(make_world(pairs=200, residual=0.0), **FIXED, heads="mlp") for _ in range(2))
    assert isinstance(first.heads, NetworkHeads) and first.report["penalties"]["networks"]["taken"]
    assert np.array_equal(first.raw, again.raw)
    other = score(make_world(pairs=200, residual=0.0), seed=1, **FIXED, heads="mlp")
    assert isinstance(other.heads, NetworkHeads)
    assert not np.array_equal(first.heads.hidden, other.heads.hidden)


@pytest.mark.slow
def test_no_prompt_is_scored_by_a_network_that_saw_its_labels(one_choice) -> None:
    world = make_world(pairs=200)
    before = score(world, **FIXED, heads="mlp")
    fold = fold_of_prompts(range(200), 4, seed=0)
    table, swapped = world.table, fold[world.table.prompt] == 2
    chosen = np.where(swapped, table.rejected, table.chosen)
    rejected = np.where(swapped, table.chosen, table.rejected)
    after = score(
        dataclasses.replace(world, table=dataclasses.replace(table, chosen=chosen, rejected=rejected)),
        **FIXED,
        heads="mlp",
    )
    held_out = fold[table.prompt_of] == 2
    np.testing.assert_allclose(before.raw[held_out], after.raw[held_out], atol=1e-5)
    assert (np.abs(before.raw - after.raw)[~held_out] > 1e-3).mean() > 0.9


def examples(pairs: int = 90, heads: int = 3, inputs: int = 5) -> Examples:
    draw = np.random.default_rng(0)
    return Examples(
        inputs=draw.standard_normal((2 * pairs, inputs)).astype(np.float32),
        cluster=draw.integers(2, size=2 * pairs),
        sides=draw.permutation(2 * pairs).reshape(-1, 2),
        offset=draw.standard_normal((pairs, heads)).astype(np.float32),
        weights=draw.integers(3, size=(pairs, heads)).astype(np.float64),
        centring=0.01,
    )


def after(given: Examples, decay: list[float], rounds: int = 3) -> Networks:
    trained = train(given, 4, np.array(decay), seed=0)
    return [next(trained) for _ in range(rounds)][-1]


def test_before_its_first_step_a_network_adds_nothing() -> None:
    given = examples()
    assert np.array_equal(Networks.new(5, 2, 3, 4, seed=0).gaps(given), given.offset)


@pytest.mark.slow
def test_networks_that_learn_together_are_those_that_learn_alone() -> None:
    """Up to rounding, which Adam makes larger where a gradient is near 0."""
    given = examples()
    together = after(given, [0.0, 1.0, 5.0])
    for i, decay in enumerate((0.0, 1.0, 5.0)):
        alone = after(given._replace(offset=given.offset[:, [i]], weights=given.weights[:, [i]]), [decay])
        np.testing.assert_allclose(
            together.gaps(given)[:, i], alone.gaps(given._replace(offset=given.offset[:, [i]]))[:, 0], atol=2e-3
        )
    assert not np.allclose(together.gaps(given), given.offset, atol=0.1)


def test_a_network_learns_by_the_gradient_of_the_loss_that_is_written_down() -> None:
    given = examples(pairs=32, heads=1)
    start = Networks.new(5, 2, 1, 4, seed=0)
    weights = given.weights[:, 0] / given.weights[:, 0].mean()

    def loss(output: np.ndarray) -> float:
        hidden = np.maximum(given.inputs.astype(np.float64) @ start.hidden.detach().double().numpy()[:, 0], 0)
        chosen, rejected = (hidden[given.sides[:, side]] @ output for side in (0, 1))
        gap = given.offset[:, 0] + chosen - rejected
        return float((weights * (np.logaddexp(0, -gap) + given.centring * (chosen + rejected) ** 2)).mean())

    step = 1e-5
    slope = np.array([(loss(step * unit) - loss(-step * unit)) / (2 * step) for unit in np.eye(4)])
    total_loss(start, given, torch.from_numpy(weights).float()[:, None], torch.arange(32)).backward()
    assert start.output.grad is not None
    np.testing.assert_allclose(start.output.grad[0].numpy(), slope, rtol=1e-3, atol=1e-5)


def test_directions_are_those_of_most_variance_and_keep_the_square_norm() -> None:
    draw = np.random.default_rng(0)
    narrow = draw.standard_normal((500, 7)).astype(np.float32) / np.sqrt(7)
    assert np.square(narrow @ directions(narrow, 0)).sum(axis=1).mean() == pytest.approx(7, rel=1e-3)
    spread = np.linspace(3, 0.01, 300)
    wide = (draw.standard_normal((2000, 300)) * spread).astype(np.float32)
    found = directions(wide, 0)
    assert found.shape == (300, 256)
    kept = np.square(wide @ found).sum() / np.square(wide).sum() * np.square(wide).sum(axis=1).mean() / 256
    assert kept == pytest.approx(1, rel=1e-3)
    weight = np.square(found).sum(axis=1)
    assert weight[:200].min() > 10 * weight[290:].max()


@pytest.mark.slow
def test_auto_is_linear_with_the_overlap_term() -> None:
    world = make_world(pairs=120)
    auto = score(world, **FIXED, heads="auto", overlap=0.1)
    assert "networks" not in auto.report["penalties"]
    assert np.array_equal(auto.raw, score(world, **FIXED, overlap=0.1).raw)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"heads": "mlp", "overlap": 0.1}, "rewards.heads is mlp and rewards.overlap is 0.1, which is for linear"),
        ({"heads": "mlp", "source": "columns"}, "rewards.heads is mlp and rewards.source is columns, which learns no"),
        ({"heads": "tree"}, "rewards.heads is tree: it must be one of linear, mlp, auto, gpm, dprm"),
    ],
    ids=str,
)
def test_settings_that_networks_do_not_go_with_are_refused(settings, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_reward_settings(RewardConfig(**settings))
