"""What a pair's loss knows of its step, and that this does not depend on how the step is split."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from objective_cases import constants_of, leaves, losses, losses_and_gradients, mixture_of, random_pair, with_logps
from torch import Tensor

from iwpo_fast.objectives import OBJECTIVES, Pair, Side
from iwpo_fast.objectives.registry import State

BETA = 0.3
WITH_STATISTICS = sorted(name for name, objective in OBJECTIVES.items() if objective.statistics is not None)
SORTED = ["aot", "aot_unpaired"]


def rows(pair: Pair, index: Tensor) -> Pair:
    def side(of: Side) -> Side:
        return Side(**{key: value[index] if isinstance(value, Tensor) else value for key, value in vars(of).items()})

    return Pair(side(pair.chosen), side(pair.rejected))


@pytest.mark.parametrize("name", WITH_STATISTICS)
@pytest.mark.parametrize("split", [[[0, 1, 2], [3, 4, 5]], [[5], [0, 3], [4, 1, 2]]], ids=str)
def test_losses_do_not_depend_on_how_the_step_is_split(name: str, split: list[list[int]]) -> None:
    mixture, pair = mixture_of(name), random_pair()
    constants = constants_of(mixture, pair)
    w, l = leaves(pair)  # noqa: E741
    with_leaves = with_logps(pair, w, l)
    parts = []
    for part in map(torch.tensor, split):
        of_part = {key: {k: v[part] for k, v in value.items()} for key, value in constants.items()}
        parts.append(mixture(rows(with_leaves, part), of_part))
    whole, by_w, by_l = losses_and_gradients(mixture, pair)
    order = torch.tensor([row for part in split for row in part])
    torch.testing.assert_close(torch.cat(parts).detach(), whole[order], rtol=0, atol=0)
    gradients = torch.autograd.grad(torch.cat(parts).sum(), (w, l), allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(gradients, (by_w, by_l), rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(set(WITH_STATISTICS) - {"beta_dpo"}))
def test_losses_move_with_their_pairs_when_the_step_is_reordered(name: str) -> None:
    pair, order = random_pair(), torch.tensor([3, 0, 5, 1, 4, 2])
    mixture = mixture_of(name)
    torch.testing.assert_close(losses(mixture, rows(pair, order)), losses(mixture, pair)[order])


@pytest.mark.parametrize("name", SORTED)
def test_each_completion_has_its_own_part_of_the_gradient_of_the_sorted_step(name: str) -> None:
    pair, mixture = random_pair(), mixture_of(name, BETA)
    _, by_w, by_l = losses_and_gradients(mixture, pair)
    size = 1e-5
    for row in range(len(pair)):
        step = size * torch.eye(len(pair)).double()[row]
        for by, move in ((by_w, (step, 0 * step)), (by_l, (0 * step, step))):
            # The statistics move with the log-probs here, unlike in a training step.
            up, down = (
                losses(
                    mixture, with_logps(pair, pair.chosen.logp + sign * move[0], pair.rejected.logp + sign * move[1])
                )
                for sign in (1, -1)
            )
            assert by[row].item() == pytest.approx((up.sum() - down.sum()).item() / (2 * size), rel=1e-6)


def test_sorted_differences_are_those_of_ranks() -> None:
    pair = random_pair()
    margins = np.sort((pair.chosen.logp - pair.rejected.logp).numpy())
    references = np.sort((pair.chosen.ref_logp - pair.rejected.ref_logp).numpy())
    expected = np.logaddexp(0, -BETA * (margins - references)).sum()
    assert losses(mixture_of("aot", BETA), pair).sum().item() == pytest.approx(expected, rel=1e-12)


def test_sorted_ratios_are_those_of_ranks() -> None:
    pair = random_pair()
    difference = np.sort(pair.chosen.s.numpy()) - np.sort(pair.rejected.s.numpy())
    expected = np.logaddexp(0, -BETA * difference).sum()
    assert losses(mixture_of("aot_unpaired", BETA), pair).sum().item() == pytest.approx(expected, rel=1e-12)


def test_kto_judges_against_the_mean_of_the_step_where_it_is_positive() -> None:
    pair = random_pair()
    mean = (pair.chosen.s.mean() + pair.rejected.s.mean()) / 2
    for shift in (mean - 1.5, mean + 1.5):
        moved = Pair(*(replace(side, ref_logp=side.ref_logp + shift) for side in (pair.chosen, pair.rejected)))
        z = max(0.0, float(mean - shift))
        expected = 1.2 * torch.sigmoid(-BETA * (moved.chosen.s - z)) + 0.8 * torch.sigmoid(
            -BETA * (z - moved.rejected.s)
        )
        actual = losses(mixture_of("kto", BETA, desirable=1.2, undesirable=0.8), moved)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("desirable", [0, 1, 4, 6])
def test_bco_of_single_completions_shifts_by_the_mean_of_those_that_there_are(desirable: int) -> None:
    pair, there = random_pair(), torch.arange(6) < desirable
    s = torch.where(there, pair.chosen.s, pair.rejected.s)
    z = BETA * (s - s.mean())
    expected = torch.log1p(torch.exp(torch.where(there, -z, z)))
    pair = Pair(replace(pair.chosen, present=there), replace(pair.rejected, present=~there))
    torch.testing.assert_close(losses(mixture_of("bco", BETA), pair), expected, rtol=1e-12, atol=0)


class TestBetaDPO:
    """The common beta, the sample of pairs, and the running means."""

    pair = random_pair(pairs=20)

    def of(self, state: dict[str, State] | None = None, **settings: float) -> dict[str, Tensor]:
        return constants_of(mixture_of("beta_dpo", BETA, **settings), self.pair, state)["beta_dpo"]

    def test_neither_dropping_nor_scaling_leaves_dpo(self) -> None:
        actual = losses(mixture_of("beta_dpo", BETA, alpha=0.0, dropped=0.0), self.pair)
        torch.testing.assert_close(actual, losses(mixture_of("sigmoid", BETA), self.pair))

    @pytest.mark.parametrize(("dropped", "left"), [(0.0, 20), (0.2, 16), (0.5, 10), (0.99, 1)])
    def test_the_sample_has_its_size_and_averages_over_itself(self, dropped: float, left: int) -> None:
        kept = self.of(dropped=dropped)["kept"]
        assert int((kept > 0).sum()) == left
        assert kept.mean().item() == pytest.approx(1.0)

    def test_margins_far_from_the_mean_are_seldom_kept(self) -> None:
        mixture = mixture_of("beta_dpo", BETA, dropped=0.5)
        far = (self.pair.h - self.pair.h.mean()).abs()
        counts = sum(
            (mixture.constants(self.pair, {}, np.random.default_rng(seed))["beta_dpo"]["kept"] > 0).double()
            for seed in range(200)
        )
        assert torch.corrcoef(torch.stack([far, counts]))[0, 1] < -0.7

    def test_beta_grows_with_the_mean_margin_of_the_sample_above_the_running_mean(self) -> None:
        mean = float(self.pair.h.mean()) - 0.5
        found = self.of({"beta_dpo": {"mean": mean, "mean_weight": 1.0, "std": 1.0, "std_weight": 1.0}}, alpha=0.4)
        sample = self.pair.h[found["kept"] > 0].mean()
        running = 0.9 * mean + 0.1 * self.pair.h.mean()
        expected = BETA * (1 + 0.4 * (sample - running))
        torch.testing.assert_close(found["beta"], expected.expand(20))
        assert expected > 1e-3

    def test_beta_has_a_floor(self) -> None:
        found = self.of({"beta_dpo": {"mean": 1e4, "mean_weight": 1.0}}, alpha=1.0)
        assert (found["beta"] == 1e-3).all()

    def test_running_means_decay_by_nine_tenths_and_are_corrected_for_their_start(self) -> None:
        state: dict[str, State] = {}
        mean, std = float(self.pair.h.mean()), float(self.pair.h.std(correction=0))
        for steps in (1, 2, 3):
            self.of(state)
            weight = 1 - 0.9**steps
            expected = {"mean": weight * mean, "mean_weight": weight, "std": weight * std, "std_weight": weight}
            assert state["beta_dpo"] == pytest.approx(expected)

    def test_an_evaluation_leaves_no_pair_out(self) -> None:
        found = mixture_of("beta_dpo", BETA, dropped=0.5).constants(self.pair, {}, None)["beta_dpo"]
        assert (found["kept"] == 1).all()

    def test_the_same_random_numbers_keep_the_same_pairs(self) -> None:
        assert torch.equal(self.of()["kept"], self.of()["kept"])

    def test_a_step_of_one_pair_is_kept(self) -> None:
        one = rows(self.pair, torch.tensor([3]))
        loss = losses(mixture_of("beta_dpo", BETA), one)
        torch.testing.assert_close(loss, losses(mixture_of("sigmoid", BETA), one))
        assert math.isfinite(loss.item())
