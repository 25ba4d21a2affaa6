"""What an arm keeps of the settings of its run."""

from __future__ import annotations

import math

import pytest

from iwpo_fast.config import ExperimentalConfig, WeightConfig
from iwpo_fast.config_checks import check_weight_settings
from iwpo_fast.importance.arms import arm_weights

RUNS = [
    WeightConfig(),
    WeightConfig(form="strong", truncate=3.0, min_ess=0.2),
    WeightConfig(form="off"),
    WeightConfig(method="irpss", tau=1.0, gamma=1.0, preferred_pairs=2, opponent="importance"),
    WeightConfig(relative_variance=2.0),
    WeightConfig(relative_variance=math.inf),
    WeightConfig(experimental=ExperimentalConfig(method="density_ratio")),
]


@pytest.mark.parametrize("of_run", RUNS, ids=str)
def test_every_arm_of_every_run_is_one_part_that_can_be(of_run: WeightConfig) -> None:
    arms = {arm: arm_weights(arm, of_run) for arm in ("dpo", "weights", "labels", "both")}
    for settings in arms.values():
        check_weight_settings(settings)
        assert settings.resolved().preferred_pairs == 0
    assert {arm: settings.formula != "none" for arm, settings in arms.items()} == {
        **{"dpo": False, "weights": True, "labels": False, "both": True}
    }
    assert {arm: settings.resolved().soft_labels for arm, settings in arms.items()} == {
        **{"dpo": 0.0, "weights": 0.0, "labels": "posterior", "both": "posterior"}
    }
    assert arms["labels"].relative_variance == arms["both"].relative_variance == of_run.relative_variance


def test_an_arm_of_weights_has_those_of_its_run_or_the_strong_ones_where_that_has_none() -> None:
    own = arm_weights("weights", WeightConfig(method="irpss", tau=1.0, gamma=3.0, truncate=4.0))
    assert (own.tau, own.gamma, own.truncate, own.force) == (1.0, 3.0, 4.0, False)
    strong = arm_weights("weights", WeightConfig())
    assert (strong.form, strong.resolved().tau, strong.force) == ("strong", 2.0, True)
