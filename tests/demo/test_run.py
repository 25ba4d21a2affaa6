"""A shortened demo, end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from iwpo_fast.command_config import DemoConfig
from iwpo_fast.demo.generate import DatasetSettings, read_jsonl
from iwpo_fast.demo.report import COLUMNS, Measurement, aligned, comparisons, markdown, table, totals
from iwpo_fast.demo.run import METHODS, WARMUP, aligned_models, run_demo
from iwpo_fast.demo.tasks import TASKS

pytestmark = pytest.mark.slow

ARMS = ("weights", "labels", "both")
DATASET = DatasetSettings(train_pairs=480, eval_pairs=80, warmup_pairs=640, noise=0.0, temperature=0.1)


def demo(folder, **changes) -> list[Measurement]:
    config = replace(DemoConfig(output_dir=str(folder), device="cpu"), **changes)
    pytest.importorskip("jsonargparse", reason="the demo needs it")
    return run_demo(config, dataset=DATASET, warmup=replace(WARMUP, epochs=1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[Measurement]]:
    folder = tmp_path_factory.mktemp("run") / "demo"
    return folder, demo(folder)


def test_the_demo_prefers_the_better_completions_of_held_out_prompts(finished) -> None:
    _, results = finished
    for method in METHODS:
        margins = np.array([result["margin"] for result in results if result["method"] == method])
        assert len(margins) == 80
        assert margins.mean() > 0
        assert (margins > 0).mean() > 0.55


def test_margins_and_accuracy_are_those_of_the_training_run(finished) -> None:
    folder, results = finished
    for method, model in aligned_models(folder).items():
        after = json.loads((model.parent / "summary.json").read_text())["after"]
        margins = np.array([result["margin"] for result in results if result["method"] == method])
        assert margins.mean() == pytest.approx(after["eval_rewards/margins"], abs=1e-4)
        assert (margins > 0).mean() == pytest.approx(after["eval_rewards/accuracies"], abs=1e-6)


def test_each_arm_has_its_part_of_the_method_alone_and_all_see_the_same_rewards(finished) -> None:
    folder, _ = finished
    weighted = {arm: folder / "iwpo" / "arms" / arm for arm in ("dpo", *ARMS)} | {"sampled": folder / "iwpo"}
    rows = {arm: read_jsonl(place / "weights" / "train.jsonl") for arm, place in weighted.items()}
    weights = {arm: np.array([row["weight"] for row in rows[arm]]) for arm in rows}
    flips = {arm: np.array([row.get("label_smoothing", 0.0) for row in rows[arm]]) for arm in rows}
    assert np.all(weights["dpo"] == 1) and np.all(flips["dpo"] == 0)
    assert weights["weights"].mean() == pytest.approx(1.0)
    assert weights["weights"].std() > 0.05
    assert np.all(flips["weights"] == 0)
    assert np.all(weights["labels"] == 1)
    assert flips["labels"].std() > 0.01
    np.testing.assert_array_equal(weights["both"], weights["weights"])
    np.testing.assert_array_equal(flips["both"], flips["labels"])
    labelled = len(flips["labels"])
    np.testing.assert_array_equal(flips["sampled"][:labelled], flips["labels"])
    assert [row["drawn"] for row in rows["sampled"]] == [0] * labelled + [1] * (len(rows["sampled"]) - labelled)
    assert len(rows["sampled"]) > 1.5 * labelled
    scores = {arm: [row["score_chosen"] for row in rows[arm][:labelled]] for arm in rows}
    assert all(score == scores["dpo"] for score in scores.values())


def test_saved_samples_have_their_gold_rewards_and_make_the_table(finished) -> None:
    folder, results = finished
    samples = read_jsonl(folder / "samples.jsonl")
    for sample in samples:
        for when in ("before", *METHODS):
            reward = TASKS[sample["task"]].gold_reward(sample["prompt"], sample[when])
            assert sample[f"gold_{when}"] == pytest.approx(reward)
    for method in METHODS:
        of_method = [result for result in results if result["method"] == method]
        assert [result["task"] for result in of_method] == [sample["task"] for sample in samples]
        assert [result["after"] for result in of_method] == [sample[f"gold_{method}"] for sample in samples]


def test_the_report_holds_the_table_and_the_places(finished) -> None:
    folder, results = finished
    report = (folder / "report.md").read_text()
    assert markdown(table(results)) in report
    for sentence in comparisons(results):
        assert sentence in report
    for path in (folder / "iwpo", folder / "iwpo" / "arms"):
        assert str(path) in report and path.is_dir()


def test_all_models_load_in_plain_transformers(finished) -> None:
    folder, _ = finished
    for path in (folder / "warmup", *aligned_models(folder).values()):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        assert model.config.vocab_size == len(tokenizer)


def test_a_second_run_keeps_every_finished_part_and_reports_the_same(finished) -> None:
    folder, results = finished
    models = [path / "model.safetensors" for path in (folder / "warmup", *aligned_models(folder).values())]
    times = [path.stat().st_mtime_ns for path in models]
    report = (folder / "report.md").read_bytes()
    again = demo(folder)
    assert [path.stat().st_mtime_ns for path in models] == times
    assert (folder / "report.md").read_bytes() == report
    assert again == results


def test_a_demo_killed_after_the_warm_up_goes_on_to_the_same_results(finished, tmp_path, monkeypatch) -> None:
    def killed(_) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("iwpo_fast.demo.run.run", killed)
        demo(tmp_path / "demo")
    warmup = tmp_path / "demo" / "warmup" / "model.safetensors"
    written = warmup.stat().st_mtime_ns
    folder, results = finished
    again = demo(tmp_path / "demo")
    assert warmup.stat().st_mtime_ns == written
    assert warmup.read_bytes() == (folder / "warmup" / "model.safetensors").read_bytes()
    assert again == results


def test_a_folder_with_another_seed_is_refused(finished) -> None:
    folder, _ = finished
    with pytest.raises(ValueError, match="another seed"):
        demo(folder, seed=1)


def test_a_folder_that_is_no_demo_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="not a demo"):
        demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_table_has_rows_for_each_task_and_method_and_for_all() -> None:
    def result(task, method, *columns) -> list[Measurement]:
        names = ("gold_gap", "margin", "before", "after", "best")
        rows = zip(*columns, strict=True)
        return [{"task": task, "method": method} | dict(zip(names, row, strict=True)) for row in rows]

    results = [
        *result("a", "X", [1.0, 2.0], [1.0, -1.0], [0.0, 1.0], [2.0, 1.0], [3.0, 3.0]),
        *result("a", "Y", [1.0, 2.0], [1.0, 1.0], [0.0, 1.0], [3.0, 1.0], [3.0, 3.0]),
        *result("b", "X", [1.0, -2.0], [1.0, 0.0], [5.0, 5.0], [5.0, 4.0], [6.0, 6.0]),
        *result("b", "Y", [1.0, -2.0], [1.0, 0.0], [5.0, 5.0], [5.0, 5.0], [6.0, 6.0]),
    ]
    header, *rows = table(results)
    assert header == COLUMNS
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["task"], row["method"]) for row in cells] == [
        *(("a", "X"), ("a", "Y"), ("b", "X"), ("b", "Y"), ("all", "X"), ("all", "Y")),
    ]
    own = [row for row in cells if row["method"] == "X"]
    assert [row["labels right"] for row in own] == ["1.000", "0.500", "0.750"]
    assert [row["accuracy"] for row in own] == ["0.500", "0.750", "0.625"]
    assert [row["change"] for row in own] == ["+1.00", "-0.50", "+0.25"]
    assert [row["win rate"] for row in own] == ["0.750", "0.250", "0.500"]
    (sentence,) = comparisons(results)
    assert sentence.startswith("Y, beside X: ") and ", gold reward +0.50 (95 % interval " in sentence
    shown = totals(results)
    assert [row[0] for row in shown] == ["method", "X", "Y"]
    assert shown[0] == ["method", "accuracy", "before", "after", "change", "95 %", "win rate"]
    assert max(map(len, aligned(shown).splitlines())) <= 80
    lines = aligned([header, *rows]).splitlines()
    assert len({len(line) for line in lines}) == 1
