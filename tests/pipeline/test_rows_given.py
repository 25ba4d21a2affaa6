"""Whatever rows and settings tell is said before the first stage, by the file and the row that were given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_cases import DATA, TINY, read_jsonl, rows_of_four, stages_done, toy_config, toy_rows

from iwpo_fast.cli import main
from iwpo_fast.config import DataConfig, ObjectiveConfig, WeightConfig
from iwpo_fast.pipeline import run
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.origin import read_written
from iwpo_fast.world import World

BLANK = 3
"""Blank lines in front of the rows, so that row i, from 0, is line i + 4."""


def write(rows: list[dict[str, Any]], path: str = DATA) -> None:
    Path(path).write_text("\n" * BLANK + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def scored(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A score of each response that depends on its text alone."""
    return [row | {f"score_{side}": float(len(row[side])) for side in ("chosen", "rejected")} for row in rows]


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


COLUMNS, ALL = ["--rewards.source", "columns"], ["--data.eval_fraction", "0"]


@pytest.mark.slow
@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_a_missing_score_is_named_by_its_line(place, capsys, dry_run) -> None:
    rows = scored(toy_rows(8))
    rows[5]["score_rejected"] = None
    write(rows)
    said = refused(capsys, *COLUMNS, *ALL, "--dry_run", dry_run)
    assert said.startswith(f"In {DATA}, row 9 lacks a score although rewards.source is columns")


@pytest.mark.slow
def test_two_scores_of_one_response_are_named_by_their_lines(place, capsys) -> None:
    rows = scored(toy_rows(8))
    (i, first), (j, second) = [(i, row) for i, row in enumerate(rows) if row["prompt"] == rows[2]["prompt"]][:2]
    assert first["chosen"] == second["chosen"]
    second["score_chosen"] += 1
    write(rows)
    said = refused(capsys, *COLUMNS, *ALL)
    assert f"a completion has different scores in different pairs, rows {i + 4} and {j + 4}" in said


@pytest.mark.slow
def test_too_few_prompts_for_the_folds_are_seen_before_the_reference_pass(place, capsys) -> None:
    write(toy_rows(5))
    said = refused(capsys, "--rewards.folds", "4", "--data.eval_fraction", "0.3")
    assert said.startswith("rewards.folds is 4, but there are 3 different prompts: lower it")


@pytest.mark.slow
def test_pairs_of_one_fold_are_seen_before_the_reference_pass(place, capsys) -> None:
    write([row | {"prompt": "say\n"} for row in toy_rows(8)])
    assert "rewards.folds is 2, but there are 1 different prompts" in refused(capsys, "--rewards.folds", "2", *ALL)
    assert "All 16 pairs fall into one of 4 folds" in refused(capsys, "--rewards.folds", "1", *ALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pairs", "held out"])
def test_a_row_whose_tokens_do_not_fit_the_limit_is_named_by_its_line(place, capsys, name) -> None:
    rows, long = toy_rows(8), {"prompt": "long\n", "chosen": "blue " * 300, "rejected": "red"}
    write([*rows[:4], long, *rows[4:]] if name == "pairs" else rows)
    write([rows[0], long], "other.jsonl")
    flags = ["--data.eval_path", "other.jsonl"] if name == "held out" else ["--data.eval_fraction", "0"]
    said = refused(capsys, "--data.truncation", "error", "--data.max_length", "200", *flags)
    row = f"{DATA}, row 8" if name == "pairs" else "other.jsonl, held out, row 5"
    assert said.startswith(f"In {row} has ") and "tokens: raise data.max_length from 200" in said


@pytest.mark.slow
def test_a_candidate_that_does_not_fit_is_named_by_the_line_of_its_row(place, capsys) -> None:
    rows = rows_of_four(8)
    rows[6]["candidates"][3] = "blue " * 300
    write(rows)
    flags = ["--data.truncation", "error", "--data.max_length", "200", "--data.eval_fraction", "0"]
    assert refused(capsys, *flags).startswith(f"In {DATA}, row 10 has a candidate of ")


@pytest.mark.slow
def test_labels_that_an_objective_cannot_smooth_are_seen_before_the_first_stage(place, capsys) -> None:
    write([row | {"label_smoothing": 0.1} for row in toy_rows(8)])
    flags = ["--objective.name", "odpo", "--weights.form", "off"]
    assert "cannot smooth labels" in refused(capsys, *flags)


@pytest.mark.slow
def test_an_objective_of_several_reward_models_asks_for_them_before_the_first_stage(place, capsys) -> None:
    write(scored(toy_rows(8)))
    flags = ["--objective.name", "up_dpo_pair", "--weights.form", "off"]
    asked = "needs scores of several reward models, and rewards.source "
    assert asked + "features" in refused(capsys, *flags, "--rewards.ensemble", "1")
    assert asked + "columns" in refused(capsys, *flags, *COLUMNS)


def test_a_dry_run_shows_pairs_by_their_lines_and_leaves_nothing(place, capsys) -> None:
    write([{"prompt": f"say {n}\n", "chosen": "b " * (n + 1), "rejected": "c"} for n in range(9)])
    run(toy_config(data=DataConfig(path=DATA, eval_fraction=0.0), dry_run=True))
    said = capsys.readouterr().out
    shown = re.findall(r"^(shortest|median|longest), row (\d+):", said, flags=re.MULTILINE)
    assert shown == [("shortest", "4"), ("median", "8"), ("longest", "12")]
    assert not Path("run").exists()


def _given(numbers: np.ndarray, path: str = DATA) -> list[dict[str, Any]]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(lines[number - 1]) for number in numbers]


def test_rows_of_a_finished_pipeline_have_the_numbers_of_the_lines_they_were_read_from(copied) -> None:
    job = PipelineJob(toy_config(), PipelineFolder(Path("run")), World(0, 1, torch.device("cpu")))
    training, held_out = read_written(job.data(job.folder.weighted)), read_written(job.data(job.folder.held_out))
    for rows, source in ((job.load_rows(), DATA), (training[0], DATA), (held_out[0], f"{DATA}, held out")):
        assert rows.source == source
        assert [row["rejected"] for row in _given(rows.numbers)] == rows.rejected
    assert training[0].numbers.tolist() != list(range(1, len(training[0]) + 1))


@pytest.mark.slow
def test_drawn_pairs_and_pairs_of_a_row_with_several_have_the_number_of_that_row(place) -> None:
    write(rows_of_four(24))
    data = DataConfig(path=DATA, eval_fraction=0.2, max_length=96, pairs_from_candidates="all")
    config = toy_config(data=data, weights=WeightConfig(preferred_pairs=1))
    for only in ("prepare", "reference", "cluster", "reward", "weigh"):
        stages_done(config, only=only)
    job = PipelineJob(config, PipelineFolder(Path("run")), World(0, 1, torch.device("cpu")))
    rows = read_written(job.data(job.folder.weighted))[0]
    records = read_jsonl(job.folder.weighted)
    assert {record["drawn"] for record in records} == {0, 1}
    assert [row["prompt"] for row in _given(rows.numbers)] == rows.prompt == [record["prompt"] for record in records]


def test_a_pipeline_that_kept_no_numbers_goes_by_those_of_its_own_files(copied) -> None:
    for path in Path("run").rglob("*.rows.safetensors"):
        path.unlink()
    job = PipelineJob(toy_config(), PipelineFolder(Path("run")), World(0, 1, torch.device("cpu")))
    rows = job.load_rows()
    assert (rows.source, rows.numbers.tolist()) == ("train.jsonl", list(range(1, len(rows) + 1)))


@pytest.mark.slow
def test_an_error_of_the_stage_train_names_the_line_of_the_data(copied) -> None:
    records = read_jsonl("run/weights/train.jsonl")
    gaps = [np.mean(row["scores_chosen"]) - np.mean(row["scores_rejected"]) for row in records]
    first = records[next(i for i, gap in enumerate(gaps) if gap <= 0)]
    with pytest.raises(ValueError, match=rf"pairs of {DATA} it is not, first in row (\d+): leave") as refusal:
        stages_done(toy_config(objective=ObjectiveConfig(name="odpo"), weights=WeightConfig(form="off")))
    number = int(re.search(r"row (\d+)", str(refusal.value))[1])
    assert _given([number])[0]["rejected"] == first["rejected"]


def test_numbers_of_rows_that_have_moved_redo_no_later_stage_and_messages_have_the_new_ones(copied) -> None:
    Path(DATA).write_text("\n\n" + Path(DATA).read_text(encoding="utf-8"), encoding="utf-8")
    assert stages_done(toy_config()) == ["prepare"]
    job = PipelineJob(toy_config(), PipelineFolder(Path("run")), World(0, 1, torch.device("cpu")))
    rows = read_written(job.data(job.folder.weighted))[0]
    assert [row["rejected"] for row in _given(rows.numbers)] == rows.rejected


@pytest.mark.slow
def test_stale_reference_columns_are_refused_behind_the_reference_pass(place) -> None:
    write(toy_rows(12))
    data = DataConfig(path=DATA, eval_fraction=0.0, max_length=96)
    stages_done(toy_config(data=data), only="prepare")
    job = PipelineJob(toy_config(data=data), PipelineFolder(Path("run")), World(0, 1, torch.device("cpu")))
    logps = job.with_reference(job.load_pairs()).ref_logps
    assert logps is not None
    rows = [
        row | {"ref_chosen_logps": float(chosen), "ref_rejected_logps": float(rejected)}
        for row, (chosen, rejected) in zip(toy_rows(12), logps, strict=True)
    ]
    write(rows)
    stages_done(toy_config(data=data), only="prepare")
    stages_done(toy_config(data=data), only="reference")
    rows[4]["ref_rejected_logps"] += 2.0
    write(rows)
    stages_done(toy_config(data=data), only="prepare")
    with pytest.raises(ValueError, match=rf"^In {DATA}, row 8 has the ref_rejected_logps"):
        stages_done(toy_config(data=data), only="reference")
    stages_done(toy_config(data=data, self_test=False), only="reference")
