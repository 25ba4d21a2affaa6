"""The loss of DRDO's student, whose rewards are a head of its own, against a naive form and differences."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_cases import leaves, losses, mixture_of, random_pair, with_logps
from torch import Tensor

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.objectives import OBJECTIVES, Mixture, Pair
from iwpo_fast.objectives.registry import Reads


def naive(pair: Pair, alpha: float, gamma: float) -> list[float]:
    """Number by number, as the formula is written."""
    found = []
    for i in range(len(pair)):
        oracle = float(pair.chosen.rewards[i].mean() - pair.rejected.rewards[i].mean())
        student = float(pair.chosen.own_reward[i] - pair.rejected.own_reward[i])
        w, l = (math.exp(float(side.logp[i] / side.tokens[i])) for side in (pair.chosen, pair.rejected))  # noqa: E741
        p = w / (w + l)
        found.append((oracle - student) ** 2 - alpha * (1 - p) ** gamma * math.log(w / (1 - l)))
    return found


def with_own(pair: Pair, w: Tensor, l: Tensor) -> Pair:  # noqa: E741
    return Pair(replace(pair.chosen, own_reward=w), replace(pair.rejected, own_reward=l))


def own(pair: Pair) -> tuple[Tensor, Tensor]:
    return tuple(side.own_reward.clone().requires_grad_() for side in (pair.chosen, pair.rejected))


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_formula(seed: int) -> None:
    pair = random_pair(seed)
    found = losses(mixture_of("drdo", alpha=0.7, gamma=1.5), pair)
    torch.testing.assert_close(found, torch.tensor(naive(pair, 0.7, 1.5), dtype=torch.float64))


def test_gradients_of_own_rewards_and_of_log_probs_agree_with_central_differences() -> None:
    pair, mixture = random_pair(), mixture_of("drdo", alpha=0.7, gamma=1.5)

    def loss(*values: Tensor) -> Tensor:
        return mixture(with_own(with_logps(pair, *values[:2]), *values[2:]), {}, 0.2)

    assert torch.autograd.gradcheck(loss, (*leaves(pair), *own(pair)))


def test_own_rewards_are_pulled_to_the_gap_of_the_oracle_and_rest_there() -> None:
    pair, mixture = random_pair(), mixture_of("drdo")
    w, l = own(pair)  # noqa: E741
    by_w, by_l = torch.autograd.grad(losses(mixture, with_own(pair, w, l)).sum(), (w, l))
    torch.testing.assert_close(by_w, -2 * (pair.reward_gap - pair.own_reward_gap))
    torch.testing.assert_close(by_l, -by_w)
    w = (pair.rejected.own_reward + pair.reward_gap).requires_grad_()
    (at_rest,) = torch.autograd.grad(losses(mixture, with_own(pair, w, pair.rejected.own_reward)).sum(), w)
    torch.testing.assert_close(at_rest, torch.zeros_like(at_rest), atol=1e-12, rtol=0)


def test_a_level_of_own_rewards_changes_nothing() -> None:
    pair, mixture = random_pair(), mixture_of("drdo")
    lifted = with_own(pair, pair.chosen.own_reward + 3, pair.rejected.own_reward + 3)
    torch.testing.assert_close(losses(mixture, lifted), losses(mixture, pair))


def test_the_surer_the_policy_is_of_a_label_the_less_its_likelihood_counts() -> None:
    pair, mixture = random_pair(), mixture_of("drdo", alpha=1.0)
    sizes = []
    for gap in (0.0, 1.0, 2.0, 4.0):
        w = (-0.1 * pair.chosen.tokens).requires_grad_()
        at = with_logps(pair, w, (-0.1 - gap) * pair.rejected.tokens)
        sizes.append(float(torch.autograd.grad(losses(mixture, at).sum(), w)[0].abs().sum()))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.1 * sizes[0]


def test_it_reads_no_reference() -> None:
    pair, mixture = random_pair(), mixture_of("drdo")
    without = Pair(replace(pair.chosen, ref_logp=None), replace(pair.rejected, ref_logp=None))
    assert torch.equal(losses(mixture, without), losses(mixture, pair))
    assert not mixture.uses_reference and mixture_of("drdo_reference").uses_reference


def test_reported_rewards_are_its_own_as_they_are() -> None:
    pair = random_pair()
    mixture = mixture_of("drdo")
    w, l = mixture.implicit_rewards(pair)  # noqa: E741
    assert torch.equal(w, pair.chosen.own_reward) and torch.equal(l, pair.rejected.own_reward)
    assert torch.equal(mixture.size_of_rewards(pair), w.abs() + l.abs())


def test_own_rewards_have_no_gradient_once_detached() -> None:
    w, l = own(random_pair())  # noqa: E741
    assert not with_own(random_pair(), w, l).detach().own_reward_gap.requires_grad


def test_the_likelihood_reads_labels_and_the_rewards_do_not() -> None:
    pair = random_pair()
    for alpha, same in ((0.0, True), (0.5, False)):
        mixture = mixture_of("drdo", alpha=alpha)
        assert torch.allclose(losses(mixture, pair.swapped()), losses(mixture, pair)) is same


def test_drdo_alone_reads_a_reward_of_the_policy_itself() -> None:
    assert [name for name, objective in OBJECTIVES.items() if Reads.OWN_REWARD in objective.reads] == ["drdo"]


def test_a_beta_of_the_form_with_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="drdo has no beta: leave it out"):
        Mixture.of(ObjectiveConfig("drdo", beta=0.1))
