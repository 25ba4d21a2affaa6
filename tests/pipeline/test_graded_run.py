"""A run with distributions over grades: what is learnt from scores of the data, and what they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pipeline_cases import (
    DATA,
    STAGES,
    Row,
    read_jsonl,
    rows_of_four,
    stages_done,
    toy_config,
    write_jsonl,
    write_toy_data,
)
from safetensors.numpy import load_file

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.config import DataConfig, RewardConfig, WeightConfig
from iwpo_fast.recipe_shelf import SHELF
from iwpo_fast.rewards.reward_model import RewardModel

MODEL = "run/rewards/reward_model"
GRADED = RewardConfig(heads="dprm", folds=2, ensemble=2)
SMALL = {
    **{"model.tiny.vocab_size": 320, "model.tiny.hidden_size": 32, "model.tiny.layers": 1, "model.tiny.heads": 2},
    **{"data.path": DATA, "data.eval_fraction": 0.2, "data.max_length": 96, "device": "cpu", "output_dir": "run"},
}


def flags(settings: dict[str, object]) -> list[str]:
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


@pytest.mark.slow
def test_soft_labels_are_the_probabilities_of_a_higher_grade_and_spreads_know_the_graders(place) -> None:
    write_jsonl(DATA, rows_of_four())
    data = DataConfig(path=DATA, eval_fraction=0.2, max_length=96)
    config = toy_config(data=data, rewards=GRADED, weights=WeightConfig(soft_labels="grades"))
    assert stages_done(config) == STAGES
    found = load_file("run/rewards/rewards.safetensors")
    rows = read_jsonl("run/weights/train.jsonl")
    labelled = [row for row in rows if not row.get("drawn")]
    np.testing.assert_allclose([row["label_smoothing"] for row in labelled], 1 - found["win"], atol=1e-6)
    assert found["raw"].shape[1] == 2
    assert stages_done(config) == []
    model = RewardModel.load(MODEL)
    assert len(model.heads.arrays()["values"]) == 4  # the candidates in no pair have taught theirs too
    texts = [row["prompt"] for row in labelled], [row["chosen"] for row in labelled]
    assert (model.score(*texts, device="cpu").spread >= 0).all()
    preferred = model.prefer(*texts, [row["rejected"] for row in labelled], device="cpu")
    np.testing.assert_allclose(1 / (1 + np.exp(-preferred)), found["win"], atol=1e-2)


@pytest.mark.slow
def test_lists_of_scores_are_votes(place) -> None:
    votes = [{"score_chosen": [4, 5, i % 5], "score_rejected": [1, None, 2]} for i in range(40)]
    rows = [{"prompt": f"say {i}\n", "chosen": "red", "rejected": "blue"} | scores for i, scores in enumerate(votes)]
    write_jsonl(DATA, rows)
    stages_done(toy_config(rewards=GRADED))
    assert load_file(f"{MODEL}/arrays.safetensors")["heads.values"].tolist() == [0, 1, 2, 3, 4, 5]
    prepared = read_jsonl("run/prepared/train.jsonl")
    assert {tuple(row["score_rejected"]) for row in prepared} == {(1, None, 2)}, "who gave no vote is not in the way"


def by_three(row: Row) -> Row:
    """The row with three votes on each candidate, in lists."""
    return row | {"candidate_scores": [[score, score, score + 1] for score in row["candidate_scores"]]}


def counted(row: Row) -> Row:
    """The same votes by grade."""
    return row | {
        "candidate_scores": [{f"{vote:g}": votes.count(vote) for vote in votes} for votes in row["candidate_scores"]]
    }


@pytest.mark.slow
def test_votes_on_candidates_teach_their_grades_and_the_same_when_they_are_counted(place) -> None:
    lists = list(map(by_three, rows_of_four()))
    data = DataConfig(path=DATA, eval_fraction=0.2, max_length=96)
    weights = WeightConfig(soft_labels="grades", preferred_pairs=1)
    config = toy_config(data=data, rewards=GRADED, weights=weights)
    write_jsonl(DATA, lists)
    assert stages_done(config) == STAGES
    found = load_file(f"{MODEL}/arrays.safetensors")["heads.values"].tolist()
    assert found == [0, 1, 2, 3, 4, 5], "grades, and no rates of winning"
    prepared = read_jsonl("run/prepared/train.jsonl")
    assert {tuple(row["score_chosen"]) for row in prepared} == {(4, 4, 5)}
    assert {tuple(votes) for row in prepared for votes in row["candidate_scores"]} == {(1, 1, 2), (2, 2, 3)}
    write_jsonl(DATA, list(map(counted, lists)))
    assert stages_done(config) == ["prepare"], "what was read is the same, byte by byte"
    write_jsonl(DATA, lists)
    stages_done(toy_config(data=data), only="prepare")
    assert all(0 < row["score_chosen"] < 1 for row in read_jsonl("run/prepared/train.jsonl")), "rewards for other heads"


@pytest.mark.slow
def test_a_plan_counts_tokens_of_data_with_counted_votes(place, capsys) -> None:
    write_jsonl(DATA, [counted(by_three(row)) for row in rows_of_four()])
    settings = SMALL | {"rewards.heads": "dprm", "rewards.folds": 2, "dry_run": "true", "plan.on": "h100"}
    assert main(["run", *flags(settings | {"plan.data": "null"})]) == 0
    assert "counted in pairs.jsonl" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rewards.heads": "dprm"}, "rewards.heads is dprm but the data have no score_chosen and score_rejected"),
        (
            {"weights.soft_labels": "grades"},
            "weights.soft_labels is grades and rewards.heads is auto, which knows of no grades",
        ),
    ],
)
def test_what_has_no_grades_is_refused_before_anything_is_made(place, capsys, settings, sentence) -> None:
    write_toy_data()
    assert main(["run", *flags(SMALL | settings)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert not Path("run/prepared").exists()


@pytest.mark.slow
def test_the_recipe_runs_in_miniature(place) -> None:
    write_jsonl(DATA, rows_of_four())
    settings = SMALL | {
        **{"data.as_chat": "false", "model.path": "tiny", "model.gradient_checkpointing": "none", "shard_over": 1},
        **{"rewards.folds": 2, "optim.max_steps": 2, "optim.pairs_per_step": 8},
    }
    assert main(["run", "--config", str(SHELF / "dprm_ultrafeedback.yaml"), *flags(settings)]) == 0
    assert RewardModel.load(MODEL).record["heads"] == "dprm"
    assert Path("run/train/model/model.safetensors").exists()
