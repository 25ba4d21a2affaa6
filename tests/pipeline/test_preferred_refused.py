"""Where no preferred pairs can be drawn: silently, with a line, or not at all, as they were asked for."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pipeline_cases import DATA, refused_in_a_sentence, rows_of_four, stages_done, toy_config, toy_rows, write_jsonl

from iwpo_fast.config import FORMS, DataConfig, ObjectiveConfig, RewardConfig, WeightConfig
from iwpo_fast.pipeline.preferred import draws_for
from iwpo_fast.rewards import PairTable

WHOLE = DataConfig(path=DATA, eval_fraction=0.2, max_length=96)
TWO = PairTable.plain(np.arange(5))
THREE = PairTable(TWO.prompt, TWO.chosen, TWO.rejected, np.append(TWO.prompt_of, 3))
KNOWN = {"ref_chosen_logps": np.zeros(5), "ref_rejected_logps": np.zeros(5)}


@pytest.fixture
def form_draws_two(monkeypatch) -> None:
    """As if the default form drew two pairs for each prompt."""
    monkeypatch.setitem(FORMS["cautious"], "preferred_pairs", 2)


def draws(table: PairTable = THREE, columns: dict[str, np.ndarray] | None = None, **parts: Any) -> int:
    pairs: Any = SimpleNamespace(columns=columns or {})
    return draws_for(toy_config(**({"weights": WeightConfig()} | parts)), pairs, table.prompt_of)


def test_auto_draws_what_the_form_says_and_a_number_takes_its_place(form_draws_two, capsys) -> None:
    assert draws() == 2
    assert draws(weights=WeightConfig(preferred_pairs=7)) == 7
    assert draws(weights=WeightConfig(preferred_pairs=0)) == 0
    assert draws(weights=WeightConfig(form="off")) == 0
    assert not capsys.readouterr().out


def test_auto_draws_nothing_where_labels_are_to_stay_as_they_are(form_draws_two) -> None:
    for weights in (WeightConfig(method="none"), WeightConfig(soft_labels="posterior", relative_variance=math.inf)):
        assert weights.resolved().preferred_pairs == draws(weights=weights) == 0


def test_auto_is_silent_where_no_prompt_has_a_third_response(form_draws_two, capsys) -> None:
    assert draws(TWO) == 0
    assert not capsys.readouterr().out


ROOM: list[dict[str, Any]] = [
    {"objective": ObjectiveConfig(name="aot")},
    {"objective": ObjectiveConfig(label_smoothing=0.1)},
    {"objective": ObjectiveConfig(name="robust")},
    {"rewards": RewardConfig(calibration=False)},
]


@pytest.mark.parametrize("parts", ROOM, ids=str)
def test_auto_says_why_it_leaves_pairs_out(form_draws_two, capsys, parts) -> None:
    assert draws(**parts) == 0
    said = capsys.readouterr().out
    assert said == "no preferred pairs: the objective smooths labels or cannot, or rewards are not calibrated\n"


def test_auto_says_that_reference_log_probs_of_the_data_leave_pairs_out(form_draws_two, capsys) -> None:
    assert draws(columns=KNOWN) == 0
    assert "no preferred pairs: the data bring ref_chosen_logps and ref_rejected_logps" in capsys.readouterr().out


def test_a_number_is_refused_where_nothing_can_be_drawn() -> None:
    asked = WeightConfig(preferred_pairs=2)
    with pytest.raises(ValueError, match=r"preferred_pairs is 2, but no prompt has more than two responses to draw fr"):
        draws(TWO, weights=asked)
    with pytest.raises(ValueError, match=r"preferred_pairs is 2, but the data bring ref_chosen_logps and ref_rejected"):
        draws(columns=KNOWN, weights=asked)


M = ["--weights.preferred_pairs", "2"]
NONE = ["--weights.preferred_pairs", "0"]


def two_responses_each(prompts: int) -> list[dict[str, str]]:
    return toy_rows(2 * prompts)[::4]


REFUSED = [
    (M, "weights.preferred_pairs is 2, but no prompt has more than two responses to draw from: bring candidates, set"),
    (["--weights.preferred_pairs", "-1"], "weights.preferred_pairs is -1: it must be 0 or more"),
    (["--weights.opponent", "importance"], "weights.opponent is importance, but no prompt has more than two responses"),
    ([*NONE, "--weights.opponent", "importance"], "weights.opponent is importance and weights.preferred_pairs is 0, w"),
    ([*M, "--weights.opponent", "best"], "weights.opponent is best: it must be one of uniform, importance, weighed."),
    (
        [*NONE, "--weights.proposal_correction", "1"],
        "weights.proposal_correction is 1.0 and weights.preferred_pairs is 0, which draws no pairs: leave",
    ),
    (
        ["--weights.proposal_correction", "1"],
        "weights.proposal_correction is 1.0 and candidates.per_prompt is 0, so no candidate comes from a known sampler",
    ),
    (
        [*M, "--weights.proposal_correction", "1"],
        "weights.proposal_correction is 1.0 and candidates.per_prompt is 0, so no candidate comes from a known sampler",
    ),
    (
        [*M, "--weights.proposal_correction", "1", "--candidates.per_prompt", "2"],
        "weights.proposal_correction is 1.0, and candidates.temperature and top_p are 1, so there is nothing",
    ),
    ([*M, "--weights.proposal_correction", "2"], "weights.proposal_correction is 2.0: it must be in [0, 1]."),
    (
        [*M, "--objective.name", "aot"],
        "weights.preferred_pairs is 2 but the objective aot cannot smooth labels or does not read them, and drawn",
    ),
    (
        [*M, "--rewards.calibration", "false"],
        "weights.preferred_pairs is 2 and rewards.calibration is false, but drawn pairs are labelled by rewards in",
    ),
    (
        [*M, "--weights.relative_variance", ".inf"],
        "weights.relative_variance is inf and weights.preferred_pairs is 2, but pairs are drawn by the rewards, which",
    ),
    (
        [*NONE, "--weights.soft_labels", "0.5", "--weights.relative_variance", "2"],
        "weights.relative_variance is 2.0 and weights.soft_labels is 0.5, which",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_cannot_be_drawn_is_one_sentence_and_nothing_is_written(
    place, capsys, monkeypatch, flags, sentence
) -> None:
    monkeypatch.setattr("pipeline_cases.toy_rows", two_responses_each)
    refused_in_a_sentence(flags, sentence, capsys)
    assert not (place / "run" / "prepared").exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_number_of_pairs_beside_reference_log_probs_of_the_data_is_refused_at_once(place, dry_run) -> None:
    rows = [row | {"chosen": row["candidates"][1], "rejected": row["candidates"][2]} for row in rows_of_four()]
    write_jsonl(DATA, [row | {"ref_chosen_logps": -3.0, "ref_rejected_logps": -4.0} for row in rows])
    settings = toy_config(data=WHOLE, weights=WeightConfig(preferred_pairs=2), dry_run=dry_run)
    with pytest.raises(ValueError, match=r"preferred_pairs is 2, but the data bring ref_chosen_logps and"):
        stages_done(settings)
    assert not Path("run").exists() or not Path("run/prepared").exists()


@pytest.mark.slow
def test_candidates_that_are_all_lost_are_noticed_when_pairs_are_drawn(place) -> None:
    write_jsonl(DATA, [row | {"candidates": ["blue " * 400]} for row in two_responses_each(60)])
    settings = toy_config(weights=WeightConfig(preferred_pairs=2))
    with pytest.raises(ValueError, match=r"preferred_pairs is 2, but no prompt has more than two"):
        stages_done(settings)
    assert Path("run/rewards/report.json").exists() and not Path("run/weights/train.jsonl").exists()
