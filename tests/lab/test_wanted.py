"""What was wanted of the default is compared with what is committed."""

from __future__ import annotations

from typing import Any

import pytest

from lab.experiment import RESULTS
from lab.wanted import DEFAULTS, RIVAL, WISHES, answer, of_exact, of_language_models, table

ARM = DEFAULTS["default"]


@pytest.mark.parametrize(
    ("low", "mean", "high", "said"),
    [(4, 5, 6, "yes"), (2, 5, 8, "yes, within chance"), (1, 3, 5, "no, within chance"), (1, 2, 3, "no")],
)
def test_an_answer_says_whether_chance_could_have_given_it(low: float, mean: float, high: float, said: str) -> None:
    assert answer({"low": low, "mean": mean, "high": high}, 4.0) == said


def candidate(**regimes: float) -> dict[str, Any]:
    changes = {name: {"low": mean - 1, "mean": mean, "high": mean + 1} for name, mean in regimes.items()}
    return {"mean": {"low": 2.0, "mean": 3.0, "high": 3.5}, "regimes": changes}


def test_regimes_in_which_only_the_rival_is_better_and_those_of_harm_are_counted() -> None:
    rival = candidate(easy=2, noisy=2, blind=-3)
    better, harmless, mean = of_exact(
        {RIVAL: rival, ARM: candidate(easy=2, noisy=0.5, blind=-2)}, ARM, "default", "here"
    )
    assert better[3:] == ("1 of 2; not in noisy: +0.5 [-0.5, +1.5]", "no")
    assert harmless[3:] == ("worse in 1 of 3", "no")
    assert mean[3:] == ("**+3.0 [+2.0, +3.5]**", "no")
    better, harmless, _ = of_exact({RIVAL: rival, ARM: candidate(easy=2, noisy=2, blind=0)}, ARM, "default", "here")
    assert (better[4], harmless[4]) == ("yes", "yes")


def model(**gains: float) -> dict[str, Any]:
    def path(gain: float) -> dict[str, list[float]]:
        return {"kl": [1.0], "gold": [gain], "scaled_gold": [gain], "win_rate": [0.5 + gain / 10]}

    names = {"dpo": "dpo", "rival": RIVAL, "ours": ARM}
    return {
        "budgets": [1.0],
        "paths": {names[arm]: {seed: path(gain) for seed in ("1", "2")} for arm, gain in gains.items()},
    }


def test_language_models_are_compared_with_dpo_and_with_d_dpo_in_the_noise_that_is_meant() -> None:
    ten, thirty = model(dpo=1.0, rival=2.0, ours=3.0), model(dpo=1.0, rival=2.0, ours=1.0)
    rows = of_language_models(ten, thirty, ARM, "default")
    assert [row[3] for row in rows] == [
        "**+200.0 [+200.0, +200.0]**",
        "**+50.0 [+50.0, +50.0]**",
        "**-50.0 [-50.0, -50.0]**",
        "**+33.3 [+33.3, +33.3]**",
    ]
    assert [row[4] for row in rows] == ["yes", "yes", "no", "yes"]
    assert [row[0] for row in rows] == list(WISHES[3:])


def test_the_committed_table_and_that_of_the_pages_are_of_the_committed_results() -> None:
    made = table(RESULTS)
    assert (RESULTS / "wanted.md").read_text(encoding="utf-8") == made + "\n"
    assert made in (RESULTS.parents[1] / "docs" / "evidence.md").read_text(encoding="utf-8")
