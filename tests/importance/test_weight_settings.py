from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import check_weight_settings


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("tau", 0.0, "positive or ess"),
        ("tau", math.nan, "positive or ess"),
        ("gamma", -1.0, "0 or more"),
        ("gamma", math.inf, "finite"),
        ("rejected_exponent", math.nan, "finite"),
        ("ess_target", 0.0, r"in \(0, 1\]"),
        ("truncate", 0.9, "at least 1"),
        ("defensive", 1.1, r"in \[0, 1\]"),
        ("soft_labels", 1.0, r"in \[0, 1\)"),
        ("ratio_scale", 0.0, "positive"),
        ("ratio_alpha", 1.0, "above 1"),
        ("min_ess", -0.1, r"in \[0, 1\]"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_what_it_must_be(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=rf"^weights\.{name} is {value}: it must be .*{wanted}"):
        check_weight_settings(WeightConfig(**{name: value}))


@pytest.mark.parametrize("name", ["gamma", "rejected_exponent"])
@pytest.mark.parametrize("target", ["noise", 0.99, 1.0])
def test_a_term_that_a_temperature_by_effective_size_can_drop_is_refused(name: str, target: Any) -> None:
    settings = WeightConfig(ess_target=target, **{name: 0.5})
    with pytest.raises(
        ValueError, match=rf"^weights\.{name} is 0\.5 and weights\.ess_target is {target}.*or weights\.tau"
    ):
        check_weight_settings(settings)
    check_weight_settings(replace(settings, ess_target=0.9))
    check_weight_settings(replace(settings, ess_target="noise", tau=2.0))


def test_a_temperature_and_a_target_for_it_exclude_one_another() -> None:
    with pytest.raises(ValueError, match=r"^weights\.ess_target is 0\.7 and weights\.tau is 2\.0, which keeps to no"):
        check_weight_settings(WeightConfig(tau=2.0, ess_target=0.7))


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("none", "tau", 2.0),
        ("none", "truncate", 3.0),
        ("rejection", "gamma", 1.0),
        ("density_ratio", "ratio_alpha", 2.0),
        ("irpss", "ratio_scale", 2.0),
    ],
)
def test_a_setting_that_the_method_does_not_read_is_refused(method: Any, name: str, value: float) -> None:
    wanted = rf"^weights\.{name} is {value} and weights\.method is {method}, which does not read it"
    with pytest.raises(ValueError, match=wanted):
        check_weight_settings(WeightConfig(method=method, **{name: value}))
    check_weight_settings(WeightConfig(method=method))


def test_defaults_and_limits_pass() -> None:
    check_weight_settings(WeightConfig())
    check_weight_settings(WeightConfig(tau=math.inf, gamma=0.0, truncate=math.inf, defensive=1.0, soft_labels=0.0))
    check_weight_settings(WeightConfig(tau="ess", ess_target=1.0, min_ess=0.0))
