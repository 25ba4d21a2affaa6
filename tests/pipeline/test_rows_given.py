"""Whatever rows and settings tell is said before the first stage, by the file and the row that were given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_cases import DATA, TINY, read_jsonl, rows_of_four, stages_done, toy_config, toy_rows

from iwpo_fast.cli import main
from iwpo_fast.config import DataConfig
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.origin import origin_of, read_written
from iwpo_fast.pipeline.run import join

BLANK = 3
"""Blank lines in front of the rows, so that row i, from 0, is line i + 4."""


def write(rows: list[dict[str, Any]], path: str = DATA) -> None:
    Path(path).write_text("\n" * BLANK + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def scored(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A score of each response that depends on its text alone."""
    return [
        row | {f"score_{side}": float(len(row[side])) for side in ("chosen", "rejected")} for row in rows
    ]


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The sentence that `iwpo run` ends with, before it has made anything."""
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    tiny = [word for name, value in vars(TINY).items() for word in (f"--model.tiny.{name}", str(value))]
    assert main(["run", "--data.path", DATA, "--output_dir", "run", "--device", "cpu", *tiny, *flags]) == 2
    said = capsys.readouterr()
    assert "[1/" not in said.out, "no stage may have begun"
    assert not Path("run/prepared").exists()
    last = said.err.splitlines()[-1]
    assert last.startswith("iwpo: error: ")
    return last.removeprefix("iwpo: error: ")


COLUMNS = ["--rewards.source", "columns"]


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_a_missing_score_is_named_by_its_line(place, capsys, dry_run) -> None:
    rows = scored(toy_rows(8))
    rows[5]["score_rejected"] = None
    write(rows)
    said = refused(capsys, *COLUMNS, "--data.eval_fraction", "0", "--dry_run", dry_run)
    assert said.startswith(f"In {DATA}, row 9 lacks a score although rewards.source is columns")


def test_two_scores_of_one_response_are_named_by_their_lines(place, capsys) -> None:
    rows = scored(toy_rows(8))
    (i, first), (j, second) = [(i, row) for i, row in enumerate(rows) if row["prompt"] == rows[2]["prompt"]][:2]
    assert first["chosen"] == second["chosen"]
    second["score_chosen"] += 1
    write(rows)
    said = refused(capsys, *COLUMNS, "--data.eval_fraction", "0")
    assert f"a completion has different scores in different pairs, rows {i + 4} and {j + 4}" in said


def test_too_few_prompts_for_the_folds_are_seen_before_the_reference_pass(place, capsys) -> None:
    write(toy_rows(5))
    said = refused(capsys, "--rewards.folds", "4", "--data.eval_fraction", "0.3")
    assert said.startswith("rewards.folds is 4, but there are 3 different prompts: lower it")


def test_pairs_of_one_fold_are_seen_before_the_reference_pass(place, capsys) -> None:
    write([row | {"prompt": "say\n"} for row in toy_rows(8)])
    assert "rewards.folds is 2, but there are 1 different prompts" in refused(capsys, "--rewards.folds", "2")
    assert "All 16 pairs fall into one of 4 folds" in refused(capsys, "--rewards.folds", "1")


@pytest.mark.parametrize("name", ["pairs", "held out"])
def test_a_row_whose_tokens_do_not_fit_the_limit_is_named_by_its_line(place, capsys, name) -> None:
    rows, long = toy_rows(8), {"prompt": "long\n", "chosen": "blue " * 300, "rejected": "red"}
    write([*rows[:4], long, *rows[4:]] if name == "pairs" else rows)
    write([rows[0], long], "other.jsonl")
    flags = ["--data.eval_path", "other.jsonl"] if name == "held out" else ["--data.eval_fraction", "0"]
    said = refused(capsys, "--data.truncation", "error", "--data.max_length", "200", *flags)
    row = f"{DATA}, row 8" if name == "pairs" else "other.jsonl, held out, row 5"
    assert said.startswith(f"In {row} has ") and "tokens: raise data.max_length from 200" in said


def test_a_candidate_that_does_not_fit_is_named_by_the_line_of_its_row(place, capsys) -> None:
    rows = rows_of_four(8)
    rows[6]["candidates"][3] = "blue " * 300
    write(rows)
    flags = ["--data.truncation", "error", "--data.max_length", "200", "--data.eval_fraction", "0"]
    assert refused(capsys, *flags).startswith(f"In {DATA}, row 10 has a candidate of ")


def test_labels_that_an_objective_cannot_smooth_are_seen_before_the_first_stage(place, capsys) -> None:
    write([row | {"label_smoothing": 0.1} for row in toy_rows(8)])
    flags = ["--objective.name", "kto", "--weights.form", "off"]
    assert "cannot smooth labels" in refused(capsys, *flags)


def test_an_objective_of_several_reward_models_asks_for_them_before_the_first_stage(place, capsys) -> None:
    write(scored(toy_rows(8)))
    flags = ["--objective.name", "e_dpo", "--weights.form", "off"]
    asked = "needs scores of several reward models, and rewards.source "
    assert asked + "features" in refused(capsys, *flags, "--rewards.ensemble", "1")
    assert asked + "columns" in refused(capsys, *flags, *COLUMNS)


def test_a_dry_run_shows_pairs_by_their_lines_and_leaves_nothing(place, capsys) -> None:
    write([{"prompt": "say\n", "chosen": "b " * (n + 1), "rejected": "c"} for n in range(9)])
    data = DataConfig(path=DATA, eval_fraction=0.0)
    from iwpo_fast.config import RewardConfig
    from iwpo_fast.pipeline import run

    run(toy_config(data=data, dry_run=True, rewards=RewardConfig(source="features", heads="linear")), only=None)
