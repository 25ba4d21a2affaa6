"""Mixtures, label smoothing, and the sentences that bad settings and lacking data meet."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import constants_of, losses, losses_and_gradients, mixture_of, random_pair
from torch import Tensor

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.objectives import OBJECTIVES, Mixture, get_objective
from iwpo_fast.objectives.registry import Labels, Reads

COEFFICIENTS = {"sigmoid": 0.8, "bco": 0.2, "sft": 1.0}
FLIPPABLE = sorted(name for name, objective in OBJECTIVES.items() if objective.flips)
LABELS_UNUSED = sorted(name for name, objective in OBJECTIVES.items() if objective.labels is Labels.UNUSED)
ONE_SIDED = sorted(name for name, objective in OBJECTIVES.items() if objective.one_sided)
SCORED = sorted(name for name, objective in OBJECTIVES.items() if Reads.SCORES in objective.reads)
SMOOTHING = torch.linspace(0, 0.5, 6).double()


def test_a_mixture_is_the_sum_of_its_parts_times_their_coefficients() -> None:
    pair = random_pair()
    whole = losses_and_gradients(mixture_of(COEFFICIENTS), pair, SMOOTHING)
    parts = [losses_and_gradients(mixture_of(name), pair, SMOOTHING) for name in COEFFICIENTS]
    for index in range(3):
        expected = sum(c * part[index] for c, part in zip(COEFFICIENTS.values(), parts, strict=True))
        torch.testing.assert_close(whole[index], expected)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_coefficient_scales_losses_and_gradients(name: str) -> None:
    pair = random_pair()
    once, thrice = (losses_and_gradients(mixture_of({name: c}), pair) for c in (1.0, 3.0))
    torch.testing.assert_close(thrice, tuple(3 * value for value in once))


# The margin of SimPO turns with the label, as in TRL (test_agreement_with_trl.py).
@pytest.mark.parametrize("name", [name for name in FLIPPABLE if name != "simpo"])
def test_label_smoothing_mixes_the_losses_of_both_sides(name: str) -> None:
    pair, mixture = random_pair(), mixture_of(name)
    constants = constants_of(mixture, pair)
    plain, flipped = mixture(pair, constants), mixture(pair.swapped(), constants)
    assert not torch.allclose(plain, flipped)
    for smoothing in (0.1, SMOOTHING):
        expected = (1 - smoothing) * plain + smoothing * flipped
        torch.testing.assert_close(mixture(pair, constants, smoothing), expected)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_no_smoothing_is_smoothing_by_zeros(name: str) -> None:
    pair, mixture = random_pair(), mixture_of(name)
    assert torch.equal(losses(mixture, pair, torch.zeros(6).double()), losses(mixture, pair))


@pytest.mark.parametrize("name", LABELS_UNUSED)
def test_swapping_labels_changes_nothing_where_they_are_unused(name: str) -> None:
    pair, mixture = random_pair(), mixture_of(name)
    plain, by_w, by_l = losses_and_gradients(mixture, pair)
    swapped, swapped_by_w, swapped_by_l = losses_and_gradients(mixture, pair.swapped())
    torch.testing.assert_close((swapped, swapped_by_l, swapped_by_w), (plain, by_w, by_l))
    assert torch.equal(losses(mixture, pair, SMOOTHING), plain)


@pytest.mark.parametrize("how", ["min", "lcb", "softmin"])
@pytest.mark.parametrize("name", ["d_dpo", "dp_dpo"])
def test_swapping_labels_changes_nothing_for_pessimistic_rewards(name: str, how: str) -> None:
    pair, mixture = random_pair(), mixture_of(name, aggregate=how)
    torch.testing.assert_close(losses(mixture, pair.swapped()), losses(mixture, pair))


def test_the_least_gap_is_that_of_the_given_labels() -> None:
    pair, mixture = random_pair(), mixture_of("d_dpo_min_gap")
    assert not torch.allclose(losses(mixture, pair.swapped()), losses(mixture, pair))


def test_beta_goes_to_every_part_that_has_one_and_params_to_their_own() -> None:
    mixture = mixture_of(COEFFICIENTS, 0.4, **{"bco.beta": 0.7})
    assert list(mixture.parameters.values()) == [{"beta": 0.4}, {"beta": 0.7}, {}]
    assert mixture.beta == 0.4


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_defaults_are_those_of_the_function(name: str) -> None:
    assert mixture_of(name).parameters == {name: OBJECTIVES[name].parameters}


def test_reported_rewards_are_beta_times_log_ratios_or_the_score_of_a_reference_free_objective() -> None:
    pair = random_pair()
    w, l = mixture_of("sigmoid", 0.3).implicit_rewards(pair)  # noqa: E741
    torch.testing.assert_close((w, l), (0.3 * pair.chosen.log_ratio, 0.3 * pair.rejected.log_ratio))
    w, l = mixture_of("simpo", 2.0).implicit_rewards(pair)  # noqa: E741
    torch.testing.assert_close((w, l), (2 * pair.chosen.mean_logp, 2 * pair.rejected.mean_logp))


def test_needs_are_those_of_any_part() -> None:
    assert not mixture_of({"simpo": 1.0, "sft": 0.1}).uses_reference
    assert mixture_of({"simpo": 1.0, "sigmoid": 0.1}).uses_reference
    assert mixture_of({"sigmoid": 1.0, "wpo": 0.1}).reads(Reads.ALIGNMENT)
    assert not mixture_of({"sigmoid": 1.0, "sft": 0.1}).needs_step_logps
    assert mixture_of({"sigmoid": 1.0, "kto": 0.1}).needs_step_logps


BAD: list[tuple[str, ObjectiveConfig, str]] = [
    ("unknown name", ObjectiveConfig("dpoo"), r"'dpoo' is unknown \(did you mean dpo\?\): choose one of aot.*wpo"),
    ("unknown name in a mixture", ObjectiveConfig({"sigmoid": 1.0, "dpoo": 1.0}), r"'dpoo' is unknown"),
    ("empty mixture", ObjectiveConfig({}), r"empty mixture"),
    ("coefficient 0", ObjectiveConfig({"sft": 0.0}), r"coefficient of sft.*must be a positive number"),
    ("coefficient nan", ObjectiveConfig({"sft": math.nan}), r"coefficient of sft.*must be a positive number"),
    ("unknown parameter", ObjectiveConfig("simpo", params={"gama": 1.0}), r"gama.*simpo.*choose among gamma"),
    ("parameter of none", ObjectiveConfig("sft", params={"gamma": 1.0}), r"gamma.*sft.*it has none beside beta"),
    ("beta of none", ObjectiveConfig("sft", beta=0.1), r"sft has no beta"),
    ("unclear owner", ObjectiveConfig({"sigmoid": 1.0, "kto": 1.0}, params={"desirable": 1.0}), r"kto\.desirable"),
    ("absent owner", ObjectiveConfig("sigmoid", params={"kto.desirable": 1.0}), r"sets kto\.desirable"),
    (
        "a word for a number",
        ObjectiveConfig("simpo", params={"gamma": "big"}),
        r"gamma of the objective simpo is 'big'",
    ),
    ("a truth for a number", ObjectiveConfig("simpo", params={"gamma": True}), r"gamma of the objective simpo is True"),
    ("beta among them", ObjectiveConfig("sigmoid", params={"beta": 0.1}), r"sets beta: set objective\.beta instead"),
    (
        "a parameter without its switch",
        ObjectiveConfig("d_dpo", params={"strength": 2.0}),
        r"strength of the objective d_dpo counts with aggregate lcb or softmin only, and aggregate is mean",
    ),
    ("no labels to smooth", ObjectiveConfig("d_dpo", label_smoothing=0.1), r"d_dpo reads scores instead of labels"),
    (
        "a wrong word",
        ObjectiveConfig("d_dpo", params={"aggregate": "max"}),
        r"aggregate of the objective d_dpo.*softmin",
    ),
    (
        "no log-ratios",
        ObjectiveConfig("simpo", divergence="js"),
        r"js but simpo is no function of differences",
    ),
    ("nor here", ObjectiveConfig("aot", divergence="forward_kl"), r"forward_kl but aot is no function of differences"),
    ("smoothing", ObjectiveConfig(label_smoothing=5.0), r"objective\.label_smoothing is 5\.0: it must be in \[0, 1\)"),
]


@pytest.mark.parametrize(("config", "sentence"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_bad_settings_are_refused_with_the_name_of_the_objective(config: ObjectiveConfig, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Mixture.of(config)


OUTSIDE: list[tuple[str, str, float]] = [
    *((name, "epsilon", epsilon) for name in ("cdpo", "robust") for epsilon in (-0.1, 0.5, math.inf)),
    *(("exo_pair", "epsilon", epsilon) for epsilon in (0.0, 0.5)),
    ("ld_dpo", "alpha", 1.1),
    ("ld_dpo", "alpha", -0.1),
    ("beta_dpo", "dropped", 1.0),
    ("beta_dpo", "dropped", -0.1),
    ("beta_dpo", "alpha", -0.1),
    ("discopop", "tau", 0.0),
    ("wpo", "clamp", 0.0),
    ("kto", "desirable", -1.0),
    ("simpo", "gamma", -1.0),
    ("odpo", "alpha", -1.0),
    ("mmpo", "scale", 0.0),
    ("rpo_sq", "scale", 0.0),
    ("e_dpo", "gamma", -0.1),
    *((name, parameter, value) for name in ("spo", "spo_pairs") for parameter, value in (("alpha", 0.0), ("mu", -0.1))),
    ("up_dpo_pair", "strength", -1.0),
    ("up_ipo", "tau", 0.0),
    *((name, parameter, -1.0) for name in ("drdo", "drdo_reference") for parameter in ("alpha", "gamma")),
    *(("uni_dpo", parameter, -0.1) for parameter in ("eta", "gamma", "nll")),
    ("mwpo", "alpha", 1.1),
    *(("mwpo", parameter, -0.1) for parameter in ("alpha", "scale", "shorter")),
]


@pytest.mark.parametrize(("name", "parameter", "value"), OUTSIDE)
def test_parameters_outside_their_range_are_refused(name: str, parameter: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{parameter} of the objective {name} is .*: it must be a number, "):
        mixture_of(name, **{parameter: value})


WITH_BETA = sorted(name for name, objective in OBJECTIVES.items() if "beta" in objective.parameters)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", WITH_BETA)
def test_betas_outside_their_range_are_refused(name: str, beta: float) -> None:
    with pytest.raises(ValueError, match=rf"beta of the objective {name} is {beta}: it must be a number, "):
        mixture_of(name, beta)


EDGES = [("cdpo", "epsilon", 0), ("beta_dpo", "dropped", 0), ("ld_dpo", "alpha", 1), ("e_dpo", "gamma", 0)]


@pytest.mark.parametrize(("name", "parameter", "value"), EDGES)
def test_closed_ends_of_a_range_are_allowed(name: str, parameter: str, value: int) -> None:
    assert mixture_of(name, **{parameter: value}).parameters[name][parameter] == value


def columns(**changes: Any) -> dict[str, np.ndarray]:
    scores = {"score_chosen": np.array([1.0, 2.0]), "score_rejected": np.array([0.0, -1.0])}
    return {name: value for name, value in (scores | changes).items() if value is not None}


FAMILY = columns(score_chosen=np.array([[1.0, 1.5], [2.0, 1.0]]), score_rejected=np.array([[0.0, 0.5], [-1.0, 0.5]]))


@pytest.mark.parametrize("name", SCORED)
def test_absent_score_columns_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} needs the columns score_chosen and score_rejected.*train\.jsonl"):
        mixture_of(name).check_columns({}, 0.0, "train.jsonl")


@pytest.mark.parametrize("name", SCORED)
def test_pairs_without_scores_are_counted(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} needs all scores, and 1 pairs of train\.jsonl"):
        mixture_of(name).check_columns(columns(score_rejected=np.array([0.0, np.nan])), 0.0, "train.jsonl")


def test_an_offset_needs_positive_gaps() -> None:
    with pytest.raises(ValueError, match=r"odpo needs score_chosen above score_rejected, and in 1 pairs of train"):
        mixture_of({"sigmoid": 1.0, "odpo": 0.5}).check_columns(
            columns(score_chosen=np.array([0.0, 2.0])), 0.0, "train.jsonl"
        )


def test_a_gap_is_that_of_mean_scores_of_several_models() -> None:
    several = columns(
        score_chosen=np.array([[3.0, -1.0], [1.0, 1.0]]), score_rejected=np.array([[0.0, 0.0], [0.0, 0.5]])
    )
    mixture_of("odpo").check_columns(several, 0.0, "train.jsonl")
    swapped = {"score_chosen": several["score_rejected"], "score_rejected": several["score_chosen"]}
    with pytest.raises(ValueError, match="in 2 pairs"):
        mixture_of("odpo").check_columns(swapped, 0.0, "train.jsonl")


@pytest.mark.parametrize("smoothing", [0.1, np.array([0.0, 0.2])], ids=["setting", "column"])
@pytest.mark.parametrize("name", ONE_SIDED)
def test_labels_without_another_side_cannot_be_smoothed(name: str, smoothing: float | np.ndarray) -> None:
    with pytest.raises(ValueError, match=rf"{name} cannot smooth labels .*label_smoothing to 0"):
        mixture_of({"sigmoid": 1.0, name: 1.0}).check_columns(columns(), smoothing, "train.jsonl")
    mixture_of(name).check_columns(columns(), np.zeros(2), "train.jsonl")


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_sufficient_data_pass(name: str) -> None:
    mixture_of(name).check_columns(FAMILY, 0.0, "train.jsonl")


@pytest.mark.parametrize("name", ["up_dpo_lcb", "up_dpo_pair", "up_dpo_energy", "up_ipo"])
def test_uncertainty_needs_several_reward_models(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} needs scores of several reward models, and train\.jsonl has"):
        mixture_of(name).check_columns(columns(), 0.0, "train.jsonl")


def test_objectives_that_sort_and_offsets_are_those_without_another_side() -> None:
    assert ONE_SIDED == ["aot", "aot_unpaired", "dpo_ranked", "odpo", "spo_best", "spo_ranked"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"dpoo.*ipo, .*sigmoid"):
        get_objective("dpoo")


def test_constants_are_per_pair_and_by_part() -> None:
    found = constants_of(mixture_of({"bco": 1.0, "sigmoid": 1.0, "kto": 1.0}), random_pair())
    assert found.keys() == {"bco", "kto"}
    values: list[Tensor] = [value for part in found.values() for value in part.values()]
    assert all(value.shape == (6,) for value in values)


@pytest.mark.parametrize(("name", "meant"), [("kto_pair", "kto"), ("dpoo", "dpo"), ("bco_pairs", "bco_pair")])
def test_a_name_that_does_not_exist_is_answered_with_the_nearest(name, meant) -> None:
    with pytest.raises(ValueError, match=rf"{name}' is unknown \(did you mean {meant}\?\)"):
        get_objective(name)
