"""Values and gradients of TRL's own code on the same log-probs, and where the objectives differ on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import trl_losses
from objective_cases import losses, mixture_of, random_pair
from torch import Tensor

from iwpo_fast.objectives import Mixture, Pair, Side

BETA = 0.3
SAME = [
    "sigmoid",
    "hinge",
    "ipo",
    "sigmoid_norm",
    "discopop",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "aot",
    "aot_unpaired",
    "sft",
]


def mean_loss(mixture: Mixture) -> trl_losses.Loss:
    return lambda pair: losses(mixture, pair).mean()


def assert_equal(ours: trl_losses.Loss, theirs: trl_losses.Loss, pair: Pair) -> None:
    expected = trl_losses.loss_and_gradients(theirs, pair)
    actual = trl_losses.loss_and_gradients(ours, pair)
    # TRL keeps the epsilon of EXO and all of ORPO in float32.
    torch.testing.assert_close(actual, tuple(x.double() for x in expected), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SAME)
def test_equals_trl(name: str, seed: int) -> None:
    mixture = mixture_of(name, None if name == "sft" else BETA)
    assert_equal(mean_loss(mixture), trl_losses.dpo(name, BETA), random_pair(seed))


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
@pytest.mark.parametrize("name", ["robust", "exo_pair"])
def test_epsilon_is_trls_label_smoothing(name: str, epsilon: float) -> None:
    theirs = trl_losses.dpo(name, BETA, smoothing=epsilon)
    assert_equal(mean_loss(mixture_of(name, BETA, epsilon=epsilon)), theirs, random_pair())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_scaled_tails_are_trls_ld_alpha(alpha: float) -> None:
    theirs = trl_losses.dpo("sigmoid", BETA, ld_alpha=alpha)
    assert_equal(mean_loss(mixture_of("ld_dpo", BETA, alpha=alpha)), theirs, random_pair())


DIVERGENCES = [("forward_kl", "forward_kl", None), ("js", "js_divergence", None)] + [
    ("alpha", "alpha_divergence", alpha) for alpha in (0.5, 1.0, 1.5)
]


@pytest.mark.parametrize(("ours", "theirs", "alpha"), DIVERGENCES)
@pytest.mark.parametrize("name", ["sigmoid", "hinge", "robust", "discopop", "ipo", "sigmoid_norm"])
def test_divergences_equal_trl(name: str, ours: str, theirs: str, alpha: float | None) -> None:
    robust = {"epsilon": 0.1} if name == "robust" else {}
    mixture = mixture_of(name, BETA, divergence=ours, divergence_alpha=alpha, **robust)
    trl_loss = trl_losses.dpo(
        name, BETA, smoothing=0.1 if robust else 0.0, divergence=theirs, divergence_alpha=alpha or 0.5
    )
    pair = in_float32(random_pair(spread=1.0))
    expected = trl_losses.loss_and_gradients(trl_loss, pair)
    actual = trl_losses.loss_and_gradients(mean_loss(mixture), pair)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def in_float32(pair: Pair) -> Pair:
    """TRL has its alpha divergences in no wider type."""

    def side(of: Side) -> Side:
        return Side(**{k: v.float() if isinstance(v, Tensor) else v for k, v in vars(of).items()})

    return Pair(side(pair.chosen), side(pair.rejected))


def test_wpo_equals_trl_where_the_clamp_is_out_of_reach() -> None:
    theirs = trl_losses.dpo("sigmoid", BETA, weighting=True)
    assert_equal(mean_loss(mixture_of("wpo", BETA, clamp=1e9)), theirs, random_pair())


def test_wpo_clamps_weights_that_trl_does_not() -> None:
    theirs = trl_losses.dpo("sigmoid", BETA, weighting=True)(random_pair())
    assert mean_loss(mixture_of("wpo", BETA))(random_pair()) < theirs


def test_ipo_of_sums_differs_from_trl_by_the_normalisation_alone() -> None:
    def of_one_token(side: Side) -> Side:
        return replace(side, tokens=torch.ones_like(side.tokens))

    pair = random_pair()
    pair = Pair(of_one_token(pair.chosen), of_one_token(pair.rejected))
    assert_equal(mean_loss(mixture_of("ipo_sum", BETA)), trl_losses.dpo("ipo", BETA), pair)


def test_label_smoothing_mixes_both_sides_where_trl_has_none() -> None:
    pair, mixture = random_pair(), mixture_of("sigmoid", BETA)
    smoothed = losses(mixture, pair, 0.1).mean()
    trl_loss = trl_losses.dpo("sigmoid", BETA, smoothing=0.1)
    torch.testing.assert_close(smoothed, 0.9 * trl_loss(pair) + 0.1 * trl_loss(pair.swapped()))
    assert smoothed != trl_loss(pair)


def test_bco_has_a_shift_that_trl_has_not() -> None:
    pair = random_pair()
    shift = (pair.chosen.log_ratio.mean() + pair.rejected.log_ratio.mean()) / 2
    shifted = Pair(*(replace(side, ref_logp=side.ref_logp + shift) for side in (pair.chosen, pair.rejected)))
    trl_loss = trl_losses.dpo("bco_pair", BETA)
    torch.testing.assert_close(losses(mixture_of("bco", BETA), pair).mean(), trl_loss(shifted))
    assert losses(mixture_of("bco", BETA), pair).mean() != trl_loss(pair)


@pytest.mark.parametrize("seed", range(3))
def test_kto_equals_trl_with_the_same_baseline(seed: int) -> None:
    theirs = trl_losses.kto(BETA, 1.2, 0.9)
    mixture = mixture_of("kto", BETA, desirable=1.2, undesirable=0.9)
    assert_equal(lambda pair: mean_loss(mixture)(pair) / 2, theirs, random_pair(seed))


@pytest.mark.parametrize("desirable", [0, 2, 6])
@pytest.mark.parametrize("name", ["kto", "apo_zero"])
def test_rows_of_one_completion_have_the_loss_of_trl(name: str, desirable: int) -> None:
    """Six rows, of which so many are desirable, and no number of the others' absent completions counts."""
    parameters = {"desirable": 1.2, "undesirable": 0.9} if name == "kto" else {}
    theirs = trl_losses.kto(BETA, 1.2, 0.9) if parameters else trl_losses.kto(BETA, 1.0, 1.0, "apo_zero_unpaired")
    there, pair = torch.arange(6) < desirable, random_pair()
    pair = Pair(replace(pair.chosen, present=there), replace(pair.rejected, present=~there))
    assert_equal(mean_loss(mixture_of(name, BETA, **parameters)), theirs, pair)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_simpo_equals_trl_with_smoothed_labels_too(smoothing: float) -> None:
    theirs = trl_losses.cpo("simpo", 2.0, gamma=0.7, average=True, smoothing=smoothing)
    mixture = mixture_of("simpo", 2.0, gamma=0.7)
    assert_equal(lambda pair: losses(mixture, pair, smoothing).mean(), theirs, random_pair())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_cpo_equals_trl(alpha: float) -> None:
    assert_equal(
        mean_loss(mixture_of("cpo", BETA, alpha=alpha)), trl_losses.cpo("sigmoid", BETA, alpha=alpha), random_pair()
    )


def test_orpo_equals_trl() -> None:
    assert_equal(mean_loss(mixture_of("orpo", BETA)), trl_losses.orpo(BETA), random_pair())
