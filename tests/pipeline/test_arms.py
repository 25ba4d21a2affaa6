"""Arms of a run: what each trains on, what is not repeated, kills, and what is said of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import HANG
from pipeline_cases import (
    DATA,
    STAGES,
    read_jsonl,
    refused_in_a_sentence,
    run_and_be_killed,
    run_in_two_processes,
    stages_done,
    toy_config,
    toy_rows,
    write_jsonl,
    write_toy_data,
)
from safetensors.numpy import load_file

from iwpo_fast import hub
from iwpo_fast.cli import main
from iwpo_fast.config import Arm, PlanConfig, RunConfig, WeightConfig
from iwpo_fast.evaluation.preference import paired_difference, parts_by, wins
from iwpo_fast.files import load_record
from iwpo_fast.importance.arms import arm_weights
from iwpo_fast.pipeline import run
from iwpo_fast.pipeline.arms import model_of
from iwpo_fast.pipeline.folder import PipelineFolder

ARMS: list[Arm] = ["dpo", "weights", "labels", "both"]
FLAGS = {
    "data": {"path": DATA, "eval_fraction": 0.2, "max_length": 96, "truncation": "drop"},
    "model.tiny": {"vocab_size": 320, "hidden_size": 32, "layers": 2, "heads": 2},
    "optim": {"lr": 1e-3, "pairs_per_step": 8, "max_steps": 6, "tokens_per_batch": 1024},
    "clusters": {"count": 3, "min_pairs": 8, "backend": "sklearn"},
    "rewards": {"heads": "linear"},
    "log": {"every": 1},
    "checkpoint": {"every": 2},
}
"""The settings of `toy_config`, for the command line."""


def config(**parts: Any) -> RunConfig:
    return toy_config(**({"weights": WeightConfig(preferred_pairs=0), "arms": list(ARMS)} | parts))


def table(place: Path = Path()) -> dict[str, dict[str, Any]]:
    return load_record(place / "run/evaluation/arms.json")


def rows_of(name: str) -> list[dict[str, Any]]:
    return read_jsonl(f"run/arms/{name}/weights/train.jsonl")


def margins(folder: str) -> np.ndarray:
    return load_file(f"{folder}/evaluation/margins.safetensors")["margin"]


def results(place: Path) -> dict[str, bytes]:
    """Every file of the pipeline and its arms, except caches, and metrics, because they hold times."""
    files = {str(path.relative_to(place)): path for path in (place / "run").rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in sorted(files.items())
        if "/cache/" not in name and not name.endswith(("metrics.jsonl", "metrics.json"))
    }


@pytest.fixture(scope="module")
def with_arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without preferred pairs, and all its arms, made from the command line; to be read only."""
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    place = tmp_path_factory.mktemp("arms")
    flags = [f"--{part}.{name}={value}" for part, values in FLAGS.items() for name, value in values.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_toy_data()
        flags += ["--weights.preferred_pairs", "0", f"--arms=[{', '.join(ARMS)}]"]
        assert main(["run", *flags, "--output_dir", "run", "--device", "cpu"]) == 0
    return place


@pytest.fixture
def copied(place: Path, with_arms: Path) -> Path:
    """The finished run and its arms as the working folder."""
    shutil.copytree(with_arms, place, dirs_exist_ok=True)
    return place


@pytest.mark.slow
def test_every_arm_is_trained_on_its_part_of_the_method_alone(copied) -> None:
    weights = {name: np.array([row["weight"] for row in rows_of(name)]) for name in ARMS}
    labels = {name: np.array([row.get("label_smoothing", 0.0) for row in rows_of(name)]) for name in ARMS}
    assert np.all(weights["dpo"] == 1) and np.all(weights["labels"] == 1)
    assert np.all(labels["dpo"] == 0) and np.all(labels["weights"] == 0)
    assert weights["weights"].std() > 0.05 and labels["labels"].std() > 0.01
    np.testing.assert_array_equal(weights["both"], weights["weights"])
    np.testing.assert_array_equal(labels["both"], labels["labels"])


@pytest.mark.slow
def test_an_arm_is_bitwise_the_pipeline_that_has_its_weights_by_itself(copied) -> None:
    for name in ("dpo", "both"):
        alone = toy_config(weights=arm_weights(name, WeightConfig()), output_dir=f"{name}-alone")
        assert stages_done(alone) == STAGES
        np.testing.assert_array_equal(margins(f"{name}-alone"), margins(f"run/arms/{name}"))


@pytest.mark.slow
def test_an_arm_that_equals_another_is_not_trained_twice(copied) -> None:
    # Without preferred pairs the default form is posterior labels alone.
    assert table()["labels"]["same_as"] == "run"
    assert not Path("run/arms/labels/train").exists()
    assert model_of(PipelineFolder(Path("run")), "labels") == Path("run/train/model")
    assert [name for name in ARMS if Path(f"run/arms/{name}/train/model").exists()] == ["dpo", "weights", "both"]


@pytest.mark.slow
def test_arms_of_a_run_that_is_dpo_itself_are_compared_with_it(place, capsys) -> None:
    write_toy_data()
    run(config(weights=WeightConfig(form="off"), arms=["dpo"]))
    assert not Path("run/arms/dpo/train").exists()
    assert "all that the run asks for: nothing, because weights and labels are those of dpo" in capsys.readouterr().out
    assert table()["run"]["difference"][0] == 0
    assert table()["dpo"]["same_as"] == "run" and "same_as" not in table()["run"]
    assert table()["dpo"]["accuracy"] == table()["run"]["accuracy"]


@pytest.mark.slow
def test_the_table_has_the_held_out_margins_of_every_arm_and_paired_differences(copied) -> None:
    folders = {"run": "run", "labels": "run"} | {name: f"run/arms/{name}" for name in ("dpo", "weights", "both")}
    assert list(table()) == sorted([*ARMS, "run"])
    prompt = load_file("run/evaluation/margins.safetensors")["prompt"]
    assert 1 < len(np.unique(prompt)) < len(prompt)
    for name, row in table().items():
        of_arm = margins(folders[name])
        assert row["margin"] == pytest.approx(of_arm.mean())
        assert row["accuracy"] == pytest.approx((of_arm > 0).mean())
        assert row["effects"]["labelled"] == len(read_jsonl("run/weights/train.jsonl"))
        if name != "dpo":
            right, first = (wins(values) for values in (of_arm, margins(folders["dpo"])))
            assert row["difference"][0] == pytest.approx(right.mean() - first.mean())
            assert row["difference"] == pytest.approx(
                paired_difference(parts_by(prompt, right), parts_by(prompt, first))
            )
    page = Path("run/evaluation/arms.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in (*ARMS, "run")]
    assert page.count("\n- ") == 4 and "points of accuracy beside dpo (95 % interval" in page


@pytest.mark.slow
def test_stages_up_to_the_rewards_are_taken_over_and_not_done_again(copied) -> None:
    stages = json.loads(Path("run/manifest.json").read_text())["stages"]
    for name in ARMS:
        of_arm = json.loads(Path(f"run/arms/{name}/manifest.json").read_text())["stages"]
        for stage in STAGES[:4]:
            assert of_arm[stage] == stages[stage]
            for path in stages[stage]["outputs"]:
                assert Path(f"run/arms/{name}/{path}").read_bytes() == Path(f"run/{path}").read_bytes()
        assert not Path(f"run/arms/{name}/cache").exists()


@pytest.mark.slow
def test_files_that_are_taken_over_take_no_room(with_arms) -> None:
    file = "run/arms/dpo/rewards/rewards.safetensors"
    assert os.path.samefile(with_arms / file, with_arms / "run/rewards/rewards.safetensors")


@pytest.mark.slow
def test_a_second_call_does_nothing_and_from_goes_for_the_arms_too(copied) -> None:
    before = results(copied)
    assert stages_done(config()) == []
    assert stages_done(config(), start="evaluate") == ["evaluate"] * 4
    assert stages_done(config(), only="evaluate") == ["evaluate"]
    assert stages_done(config()) == []
    assert results(copied) == before


@pytest.mark.slow
def test_the_model_of_the_run_is_sent_to_the_hub_and_none_of_its_arms(copied, monkeypatch) -> None:
    sent: list[tuple[Path, str]] = []
    monkeypatch.setattr("iwpo_fast.config_checks.all.check_push", lambda _: None)
    monkeypatch.setattr(hub, "push", lambda folder, name: sent.append((folder, name)) or "there")
    asked = config(arms=["dpo"], push_to_hub="mine")
    assert stages_done(asked, start="train") == ["train", "evaluate"] * 2
    assert stages_done(asked) == []
    with pytest.raises(ValueError, match="and --only does one stage and sends nothing"):
        stages_done(asked, only="evaluate")
    assert sent == [(Path("run/train/model"), "mine")] * 2


@pytest.mark.slow
def test_changed_rewards_are_those_of_all_arms(copied) -> None:
    changed = config()
    changed.rewards.ridge = 1e-3
    weighed = STAGES[4:]
    # What dpo learns does not depend on the rewards, so its evaluation stays.
    assert stages_done(changed) == [*STAGES[3:], "weigh", "train", *weighed, "weigh", *weighed]
    for name in ARMS:
        assert Path(f"run/arms/{name}/rewards/rewards.safetensors").read_bytes() == (
            Path("run/rewards/rewards.safetensors").read_bytes()
        )


@pytest.mark.slow
def test_a_damaged_file_of_an_arm_is_taken_over_or_made_again(copied) -> None:
    before = results(copied)
    Path("run/arms/dpo/rewards/rewards.safetensors").unlink()
    assert stages_done(config()) == []
    Path("run/arms/both/train/summary.json").unlink()
    assert stages_done(config()) == ["train"]
    assert results(copied) == before


@pytest.mark.slow
def test_a_comparison_goes_where_what_it_compares_is_made_again(copied) -> None:
    assert stages_done(config(arms=[]), start="evaluate") == ["evaluate"]
    assert not Path("run/evaluation/arms.json").exists() and not Path("run/evaluation/arms.md").exists()


KILLS = {
    "between two arms": ("iwpo_fast.pipeline.manifest:Manifest.take_over", 2),
    "while files are taken over": ("iwpo_fast.pipeline.manifest:link", 5),
    "in the training of an arm": ("iwpo_fast.training.loop:train_step", 10),
    "before the table": ("iwpo_fast.pipeline.arms:save_record", 1),
}


@pytest.mark.slow
def test_a_kill_between_arms_or_in_one_leaves_no_trace(place, with_arms, processes) -> None:
    shutil.copy2(with_arms / DATA, place)
    for moment, (target, call) in KILLS.items():
        process = processes.Process(target=run_and_be_killed, args=(place, target, call, config()))
        process.start()
        process.join(HANG)
        assert process.exitcode == -signal.SIGKILL, f"{moment}: {(place / 'said-0.txt').read_text()}"
    assert stages_done(config()) == []
    assert results(place) == results(with_arms)


@pytest.mark.slow
def test_two_processes_train_the_same_arms(place, with_arms, processes) -> None:
    shutil.copy2(with_arms / DATA, place)
    run_in_two_processes(place, processes, config())
    there, here = table(with_arms), table()
    for name, row in here.items():
        assert row.get("same_as") == there[name].get("same_as")
        assert row["margin"] == pytest.approx(there[name]["margin"], abs=1e-4)


@pytest.mark.slow
def test_the_report_says_what_was_done_to_the_pairs(copied) -> None:
    smoothing = np.array([row["label_smoothing"] for row in read_jsonl("run/weights/train.jsonl")])
    page = Path("run/evaluation/report.md").read_text()
    assert "- weights: all alike\n" in page and "- drawn pairs: none\n" in page
    turned = f"{(smoothing > 0.5).sum()} of {len(smoothing)} "
    assert f"- labels: softened, by {smoothing.mean():.3f} on the mean; {turned}" in page


@pytest.mark.slow
def test_a_dry_run_names_the_arms_and_trains_none(copied, capsys) -> None:
    before = results(copied)
    run(config(dry_run=True))
    assert "then the arms dpo, weights, labels, both, in run/arms" in capsys.readouterr().out
    assert results(copied) == before


@pytest.mark.slow
def test_an_estimate_counts_the_training_of_every_arm(place, capsys) -> None:
    write_toy_data()
    run(config(dry_run=True, plan=PlanConfig(on="h100"), arms=["dpo", "labels"]))
    said = [line.split("  ")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [line for line in said if ", " in line and line.split(", ")[1] in ARMS] == [
        *("train, dpo", "evaluate, dpo", "train, labels", "evaluate, labels")
    ]


@pytest.mark.slow
def test_where_nothing_turns_out_to_be_held_out_no_arm_is_trained(place, capsys) -> None:
    write_jsonl(DATA, [row | {"prompt_id": "the only one"} for row in toy_rows(20)])
    run(config())
    assert "no pair is held out, so there is nothing to compare arms on, and none is trained" in capsys.readouterr().out
    assert not Path("run/arms").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--arms", "[labels]"], "arms names labels, and all are compared with dpo: name dpo too."),
        (["--arms", "[dpo, labels, dpo]"], "arms names dpo, labels, dpo, one of them twice: name each once."),
        (
            ["--arms", "[dpo]", "--data.eval_fraction", "0"],
            "arms are compared on held-out pairs, and data.eval",
        ),
        (["--arms", "[dpo, all]"], "arms"),
        (
            ["--arms", "[dpo, both]", "--objective.name", "aot"],
            "arms names both, which need calibrated rewards and an objective that can smooth labels, as aot",
        ),
        (
            ["--arms", "[dpo, labels]", "--rewards.calibration", "false"],
            "arms names labels, which need calibrated rewards",
        ),
    ],
)
def test_arms_that_cannot_be_are_refused_in_a_sentence(place, capsys, flags, sentence) -> None:
    refused_in_a_sentence(flags, sentence, capsys)


@pytest.mark.slow
def test_a_folder_of_something_else_in_the_place_of_an_arm_is_left_alone(place) -> None:
    write_toy_data()
    Path("run/arms/dpo").mkdir(parents=True)
    Path("run/arms/dpo/thesis.tex").write_text("precious")
    Path("run/manifest.json").write_text('{"threads": null, "stages": {}}')
    with pytest.raises(ValueError, match="arms/dpo exists and is not a pipeline of iwpo_fast"):
        run(config())
    assert [path.name for path in Path("run/arms/dpo").iterdir()] == ["thesis.tex"]
