"""Which stages a call does: the ones whose inputs have changed, and the ones that are asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pipeline_cases import DATA, STAGES, read_jsonl, results, stages_done, toy_config, toy_rows, write_jsonl
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from iwpo_fast.config import DataConfig, ModelConfig, ObjectiveConfig, RewardConfig, RunConfig, WeightConfig
from iwpo_fast.files import load_record, save_json, save_record
from iwpo_fast.pipeline import run
from iwpo_fast.pipeline.stages import STAGES as STAGE_MODULES
from iwpo_fast.threads import NUMBER


def test_the_second_call_does_nothing(copied) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in copied.rglob("*")}

    before = times()
    assert stages_done(toy_config()) == []
    assert times() == before


CHANGES: dict[str, tuple[Callable[[RunConfig], object], list[str]]] = {
    "tau": (lambda config: setattr(config.weights, "tau", 1.0), STAGES[4:]),
    "min_ess": (lambda config: setattr(config.weights, "min_ess", 0.01), ["weigh"]),
    "clusters": (lambda config: setattr(config.clusters, "count", 2), STAGES[2:]),
    "ridge": (lambda config: setattr(config.rewards, "ridge", 0.1), STAGES[3:]),
    "lr": (lambda config: setattr(config.optim, "lr", 2e-3), STAGES[5:]),
    "beta": (lambda config: setattr(config.objective, "beta", 0.2), STAGES[5:]),
    "max_length": (lambda config: setattr(config.data, "max_length", 16), STAGES[1:]),
    "model": (lambda config: setattr(config.model.tiny, "layers", 1), STAGES),
    "seed": (lambda config: setattr(config, "seed", 1), STAGES),
    "logging": (lambda config: setattr(config.log, "every", 3), []),
    "checkpoints": (lambda config: setattr(config.checkpoint, "every", None), []),
}


WHOLE_RUNS = {"max_length", "model", "seed"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in WHOLE_RUNS)) for name in CHANGES]
)
def test_a_changed_setting_redoes_what_depends_on_it_and_no_more(copied, name) -> None:
    change, expected = CHANGES[name]
    config = toy_config()
    change(config)
    assert stages_done(config) == expected
    assert stages_done(config) == []


@pytest.mark.slow
def test_changed_data_redo_everything(copied) -> None:
    write_jsonl(DATA, read_jsonl(DATA)[:-4])
    assert stages_done(toy_config()) == STAGES


def test_the_same_data_in_another_place_redo_only_their_preparation(copied) -> None:
    config = toy_config()
    config.data.path = str((copied / DATA).rename(copied / "moved.jsonl"))
    before = results(copied)
    assert stages_done(config) == ["prepare"]
    names_of_rows = ("prepared/train.rows.safetensors", "prepared/held_out.rows.safetensors")
    for name in ("manifest.json", *names_of_rows):
        del before[name]
    after = results(copied)
    assert {name: after[name] for name in before} == before
    assert all(b"moved.jsonl" in after[name] for name in names_of_rows)


@pytest.mark.slow
def test_a_changed_model_folder_redoes_all_that_its_features_enter(copied) -> None:
    shutil.copytree("run/prepared/tiny", "model")
    config = toy_config(model=ModelConfig(path="model"))
    stages_done(config)
    weights = load_file("model/model.safetensors")
    save_file({name: 2 * values for name, values in weights.items()}, "model/model.safetensors", {"format": "pt"})
    Path("model/checksums.json").unlink()
    # The texts and their tokens have stayed, so it is the features that tell the difference.
    assert stages_done(config) == STAGES[1:]


@pytest.mark.slow
def test_held_out_pairs_of_which_more_fit_are_evaluated_anew_though_training_sees_the_same(copied) -> None:
    held_out = [
        row | {"prompt": f"{'long ' * 200 if i % 2 else ''}{row['prompt']}"} for i, row in enumerate(toy_rows(8))
    ]
    write_jsonl("held_out.jsonl", held_out)
    config = toy_config(objective=ObjectiveConfig(name="e_dpo"), weights=WeightConfig())
    config.data = DataConfig(path=DATA, eval_path="held_out.jsonl", max_length=96, truncation="drop")
    write_jsonl(DATA, [row for row in read_jsonl(DATA) if not row["prompt"].startswith("long")])

    def evaluated() -> int:
        return json.loads(Path("run/evaluation/evaluation.json").read_text())["all"]["pairs"]

    stages_done(config)
    few = evaluated()
    config.data.max_length = 2000
    assert stages_done(config)[-1] == "evaluate"
    assert evaluated() == len(held_out) > few


@pytest.mark.slow
def test_a_changed_reward_model_redoes_the_rewards_though_its_path_is_the_same(copied) -> None:
    def save_reward_model(seed: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained("run/prepared/tiny")
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        torch.manual_seed(seed)
        LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokenizer), num_labels=1, **sizes)).save_pretrained(
            "rm"
        )
        tokenizer.save_pretrained("rm")

    save_reward_model(0)
    config = toy_config(rewards=RewardConfig(source="model", model="rm"))
    assert stages_done(config)[0] == "reward"
    assert stages_done(config) == []
    save_reward_model(1)
    assert stages_done(config)[0] == "reward"


@pytest.mark.slow
def test_a_changed_chat_template_is_noticed_though_its_path_is_the_same(copied) -> None:
    template = copied / "template.jinja"
    config = toy_config()
    config.data.chat_template = str(template)
    template.write_text("{{ messages[0]['content'] }}")
    stages_done(config)
    template.write_text("{{ messages[0]['content'] }} ")
    assert stages_done(config)[0] == "reference"


@pytest.mark.slow
def test_held_out_pairs_and_their_evaluation_go_where_none_are_held_out_any_more(copied) -> None:
    config = toy_config()
    config.data.eval_fraction = 0.0
    assert stages_done(config) == STAGES
    assert not (copied / "run" / "prepared" / "held_out.jsonl").exists()
    assert list((copied / "run" / "evaluation").iterdir()) == []
    assert stages_done(config) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damaged", "stage"),
    [
        ("prepared/train.jsonl", "prepare"),
        ("prepared/tiny/model.safetensors", "prepare"),
        ("reference/pairs.safetensors", "reference"),
        ("clusters/centroids.safetensors", "cluster"),
        ("rewards/rewards.safetensors", "reward"),
        ("weights/train.jsonl", "weigh"),
        ("train/model/model.safetensors", "train"),
        ("train/summary.json", "train"),
        ("evaluation/report.md", "evaluate"),
    ],
)
@pytest.mark.parametrize("how", ["damaged", "deleted"])
def test_a_file_that_is_not_what_was_written_is_made_again(copied, damaged, stage, how) -> None:
    before = results(copied)
    path = copied / "run" / damaged
    path.unlink()
    if how == "damaged":
        path.write_bytes(before[damaged][:50])
    assert stages_done(toy_config()) == [stage]
    assert results(copied) == before


@pytest.mark.slow
def test_from_only_and_force_do_what_they_say_and_end_in_the_same_bytes(copied) -> None:
    before = results(copied)
    assert stages_done(toy_config(), start="weigh") == STAGES[4:]
    assert stages_done(toy_config(), only="cluster") == ["cluster"]
    assert stages_done(toy_config(), only="train") == ["train"]
    assert stages_done(toy_config(), force=True) == STAGES
    assert results(copied) == before


@pytest.mark.slow
def test_only_one_stage_of_changed_settings_is_done_and_the_next_call_catches_up(copied) -> None:
    config = toy_config()
    config.weights.tau = 1.0
    assert stages_done(config, only="weigh") == ["weigh"]
    assert stages_done(config) == ["train", "evaluate"]


CHANGED_BEFORE = [("max_length", "reference"), ("path", "prepare"), ("limit", "prepare")]


@pytest.mark.parametrize(("name", "stage"), CHANGED_BEFORE)
def test_only_one_stage_is_refused_where_an_earlier_one_has_changed(copied, name, stage) -> None:
    before = results(copied)
    config = toy_config()
    shutil.copy(DATA, "copy.jsonl")
    setattr(config.data, name, {"max_length": 32, "path": "copy.jsonl", "limit": 50}[name])
    with pytest.raises(ValueError, match=f"--only weigh reads what the stage {stage} left, but settings or files have"):
        stages_done(config, only="weigh")
    assert results(copied) == before


@pytest.mark.slow
def test_evaluation_with_neither_checkpoints_nor_margins_is_one_sentence(copied) -> None:
    for name in ("checkpoints", "held_out"):
        shutil.rmtree(f"run/train/{name}")
    with pytest.raises(ValueError, match="checkpoints holds no checkpoint to evaluate: run again with --from train"):
        stages_done(toy_config(), start="evaluate")
    assert stages_done(toy_config(), start="train") == STAGES[5:]


def test_a_dry_run_says_what_is_to_do_and_writes_nothing(copied, capsys) -> None:
    before = results(copied)
    config = toy_config(dry_run=True)
    config.weights.tau = 1.0
    assert stages_done(config) == ["weigh"]
    assert results(copied) == before
    config.output_dir = "new"
    assert stages_done(config) == ["prepare"]
    assert not (copied / "new").exists()


def test_the_manifest_records_settings_versions_hashes_and_numbers(finished) -> None:
    stages = json.loads((finished / "run" / "manifest.json").read_text())["stages"]
    assert sorted(stages) == sorted(STAGES)
    assert {"torch", "transformers", "iwpo-fast"} <= stages["train"]["versions"].keys()
    assert all(len(digest) == 64 for stage in stages.values() for digest in stage["outputs"].values())
    assert 0 < stages["weigh"]["result"]["ess"] <= 1
    assert stages["weigh"]["settings"]["seed"] == 0
    assert all(0 <= cluster["calibration_error"] <= 1 for cluster in stages["reward"]["result"]["clusters"])
    assert len(stages["reward"]["result"]["clusters"]) == stages["cluster"]["result"]["clusters"] > 1


def test_a_pipeline_goes_on_with_the_threads_that_it_began_with(copied, monkeypatch, capsys) -> None:
    for name in NUMBER:
        monkeypatch.delenv(name, raising=False)
    path, seen, now = Path("run/manifest.json"), [], torch.get_num_threads()
    record = json.loads(path.read_text())
    assert record["threads"] == now
    save_record(path, load_record(path) | {"threads": now + 1})
    real = STAGE_MODULES["weigh"].run
    monkeypatch.setattr(STAGE_MODULES["weigh"], "run", lambda *a: seen.append(torch.get_num_threads()) or real(*a))
    config = toy_config()
    config.weights.min_ess = 0.01
    run(config)
    assert seen == [now + 1] and torch.get_num_threads() == now
    assert f"the run began with {now + 1} CPU threads and keeps them" in capsys.readouterr().out
    assert json.loads(path.read_text())["threads"] == now + 1


@pytest.mark.parametrize("record", ["{", "[]", '{"stages": {"weigh": {"kee": 1}}}'])
def test_a_damaged_manifest_is_named(copied, record) -> None:
    (copied / "run" / "manifest.json").write_text(record)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: choose another output_dir"):
        stages_done(toy_config())


def test_a_folder_of_something_else_is_left_alone(copied) -> None:
    save_json(Path("other") / "precious.json", {})
    with pytest.raises(ValueError, match="other exists and is not a pipeline of iwpo_fast"):
        stages_done(toy_config(output_dir="other"))
    assert [path.name for path in Path("other").iterdir()] == ["precious.json"]
