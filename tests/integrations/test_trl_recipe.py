"""TRL's recipes in our settings: what means the same, what is said, and that the result is a recipe of ours."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from iwpo_fast.cli import main
from iwpo_fast.integrations import trl_names
from iwpo_fast.integrations.trl_names import SAME
from iwpo_fast.integrations.trl_recipe import translated
from iwpo_fast.nearest import ELSEWHERE

RECIPE = {
    "model_name_or_path": "m",
    "dataset_name": "d",
    "learning_rate": 5e-7,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 16,
    "warmup_ratio": 0.1,
    "lr_scheduler_type": "cosine",
    "use_peft": True,
    "lora_r": 32,
    "lora_target_modules": ["all-linear"],
    "bf16": True,
}


def test_a_recipe_of_trl_kto_keeps_its_loss_and_what_it_weighs_by() -> None:
    kto = translated({"desirable_weight": 1.5, "undesirable_weight": 0.5}, processes=2)
    assert kto.settings["objective.name"] == "kto" and not any("weight" in note for note in kto.notes)
    assert kto.settings["objective.params"] == {"desirable": 1.5, "undesirable": 0.5}
    apo = translated({"loss_type": "apo_zero_unpaired", "desirable_weight": 1.5}, processes=2)
    assert apo.settings["objective.name"] == "apo_zero"
    assert "desirable_weight: 1.5 has no counterpart here and is left out" in apo.notes


def test_rpo_alpha_is_sft_beside_the_loss_as_trl_says_and_of_its_weight() -> None:
    rpo = translated({"rpo_alpha": "1.0"}, processes=2)
    assert rpo.settings["objective.name"] == {"sigmoid": 1.0, "sft": 1.0}
    [note] = [note for note in rpo.notes if "rpo_alpha" in note]
    assert note.startswith("rpo_alpha: 1.0 becomes the loss sft with this weight; its mean is over the chosen tokens")
    same = translated({"loss_type": ["ipo", "sft"], "loss_weights": [0.5, 0.2]}, processes=2)
    mixed = translated({"loss_type": "ipo", "loss_weights": [0.5], "rpo_alpha": 0.2}, processes=2)
    assert mixed.settings == same.settings
    assert translated({"rpo_alpha": 0}, processes=2).settings["objective.name"] == "sigmoid"
    with pytest.raises(ValueError, match=r"rpo_alpha is -1"):
        translated({"rpo_alpha": -1}, processes=2)


def test_what_means_the_same_keeps_its_value_and_trls_defaults_are_written_out() -> None:
    found = translated(RECIPE, processes=4)
    expected = {
        "model.path": "m",
        "data.path": "d",
        "optim.lr": 5e-7,
        "optim.pairs_per_step": 128,
        "optim.warmup_fraction": 0.1,
        "optim.schedule": "cosine",
        "optim.epochs": 3.0,
        "optim.betas": [0.9, 0.999],
        "model.lora.rank": 32,
        "model.lora.alpha": 32,
        "model.lora.target_modules": "all-linear",
        "model.gradient_checkpointing": "full",
        "data.truncation": "truncate_completion",
        "objective.name": "sigmoid",
        "objective.beta": 0.1,
        "seed": 42,
    }
    assert {name: found.settings[name] for name in expected} == expected
    assert found.notes == []


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"loss_type": "ipo"}, {"objective.name": "ipo"}),
        ({"learning_rate": "5e-7"}, {"optim.lr": 5e-7}),
        ({"warmup_ratio": "1e-1", "max_steps": "10"}, {"optim.warmup_fraction": 0.1, "optim.max_steps": 10}),
        ({"loss_type": "exo_pair", "label_smoothing": "1e-3"}, {"objective.params": {"epsilon": 1e-3}}),
        ({"loss_type": ["sft", "ipo"], "loss_weights": ["1e-1", 1]}, {"objective.name": {"sft": 0.1, "ipo": 1.0}}),
        ({"per_device_train_batch_size": "2", "gradient_accumulation_steps": 4}, {"optim.pairs_per_step": 16}),
        ({"bf16": "no"}, {"model.precision": "fp32"}),
        ({"loss_type": ["ipo", "ipo"], "loss_weights": [1.0, 2.0]}, {"objective.name": {"ipo": 3.0}}),
        ({"loss_type": ["ipo", "sft"], "loss_weights": [2.0, 0]}, {"objective.name": {"ipo": 2.0}}),
        ({"loss_type": ["robust", "ipo"], "loss_weights": [0.0, 1], "beta": 0.3}, {"objective.name": "ipo"}),
        (
            {"loss_type": ["ipo", "sft"], "loss_weights": [1.0, 0.1]},
            {"objective.name": {"ipo": 1.0, "sft": 0.1}},
        ),
        ({"loss_type": ["robust"], "label_smoothing": 0.2}, {"objective.params": {"epsilon": 0.2}}),
        ({"f_divergence_type": "js_divergence"}, {"objective.divergence": "js"}),
        ({"max_steps": 50, "warmup_steps": 5}, {"optim.max_steps": 50, "optim.warmup_fraction": 0.1}),
        ({"max_steps": 50, "num_train_epochs": 1}, {"optim.max_steps": 50, "optim.epochs": 50.0}),
        ({"lr_scheduler_type": "constant"}, {"optim.schedule": "constant", "optim.warmup_fraction": 0.0}),
        ({"optim": "paged_adamw_8bit"}, {"optim.name": "adamw_8bit"}),
        ({"save_strategy": "no"}, {"checkpoint.every": None}),
        ({"save_steps": 0}, {"checkpoint.every": None}),
        ({"eval_strategy": "steps", "eval_steps": 7}, {"log.eval_every": 7, "data.eval_split": "test"}),
        ({"eval_strategy": "steps"}, {"log.eval_every": 10, "log.every": 10, "checkpoint.every": 500}),
        ({"eval_strategy": "steps", "logging_steps": 25.0}, {"log.eval_every": 25, "log.every": 25}),
        (
            {"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"]},
            {"model.lora.target_modules": ["q_proj", "v_proj"]},
        ),
        ({"report_to": ["wandb", "mlflow"]}, {"log.trackers": ["wandb"]}),
        ({"bf16": False}, {"model.precision": "fp32"}),
        ({"activation_checkpointing": False}, {"model.gradient_checkpointing": "none"}),
        ({"use_peft": True, "load_in_4bit": True}, {"model.quantize": "nf4", "model.lora.rank": 16}),
        (
            {"use_peft": True, "use_dora": True, "use_rslora": True, "lora_modules_to_save": ["lm_head"]},
            {"model.lora.dora": True, "model.lora.rslora": True, "model.lora.modules_to_save": ["lm_head"]},
        ),
        ({"neftune_noise_alpha": 5}, {"model.neftune_alpha": 5}),
        ({"sync_ref_model": True}, {"reference_sync.alpha": 0.6, "reference_sync.steps": 512}),
        (
            {"sync_ref_model": True, "ref_model_mixup_alpha": 1.0, "ref_model_sync_steps": 9},
            {"reference_sync.alpha": 1.0, "reference_sync.steps": 9},
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 7},
            {"checkpoint.best": "eval_loss", "log.eval_every": 7},
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "metric_for_best_model": "rewards/accuracies"},
            {"checkpoint.best": "eval_rewards/accuracies"},
        ),
        ({"push_to_hub": True, "output_dir": "runs/mine"}, {"push_to_hub": "mine"}),
        ({"push_to_hub": True, "hub_model_id": "me/mine"}, {"push_to_hub": "me/mine"}),
    ],
    ids=str,
)
def test_settings_of_another_form_become_ours(theirs, ours) -> None:
    found = translated(theirs, processes=2)
    assert {name: found.settings[name] for name in ours} == ours


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"max_steps": 50}, "max_steps: 50 overrides num_train_epochs in TRL"),
        (
            {"label_smoothing": 0.1, "loss_type": ["sigmoid", "sft"]},
            "label_smoothing: 0.1 is not kept, because TRL's sigmoid and sft does not read it as the probability of a "
            "flipped label: set objective.label_smoothing to 0.1",
        ),
        (
            {"dataset_num_proc": 8, "remove_unused_columns": False},
            "left out, because nothing need be set in their place: dataset_num_proc, remove_unused_columns",
        ),
        ({"eval_delay": 5}, "eval_delay: 5 has no counterpart here"),
        ({"sync_ref_model": True, "use_peft": True}, "ref_model_mixup_alpha: 0.6 becomes 1"),
        ({"load_best_model_at_end": True}, "true needs evaluations: set log.eval_every"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "sync_ref_model": True},
            "true is not kept, because sync_ref_model changes what evaluations mean",
        ),
        ({"push_to_hub": True, "hub_private_repo": False}, "a repository that is made is private"),
        ({"push_to_hub": True, "hub_strategy": "every_save"}, "the model is sent once"),
        ({"use_peft": True}, "lora_target_modules is not set, where peft adapts the layers that it knows"),
        ({"eval_strategy": "epoch"}, "eval_strategy: epoch is no number of steps: set log.eval_every"),
        ({"save_strategy": "best"}, "save_strategy: best is no number of steps: set checkpoint.every"),
        ({"eval_strategy": "steps", "eval_steps": 0.1}, "eval_steps: 0.1 is no number of steps: set log.eval_every"),
        ({"logging_steps": 0.05}, "logging_steps: 0.05 is no number of steps: set log.every"),
        ({"optim": "lion_32bit"}, "optim: lion_32bit has no counterpart here: adamw stands in its place"),
        ({"warmup_steps": 100}, "warmup_steps: 100 is a number of steps"),
        ({"truncation_mode": "keep_end"}, "cuts prompt and completion alike from the left"),
        ({"fp16": True}, "fp16: true has no counterpart"),
    ],
    ids=str,
)
def test_what_cannot_be_kept_is_said(theirs, said) -> None:
    assert any(said in note for note in translated(theirs, processes=2).notes)


def test_a_token_is_neither_kept_nor_printed() -> None:
    found = translated({"hub_token": "hf_secret"})
    assert "hf_secret" not in found.yaml() and "hub_token is not kept" in found.yaml()


def test_the_defaults_and_the_names_are_those_of_trl() -> None:
    trl = pytest.importorskip("trl")
    from trl.scripts.utils import ScriptArguments

    kinds = (trl.DPOConfig, trl.ModelConfig, ScriptArguments)
    of_trl = {field.name: field for kind in kinds for field in dataclasses.fields(kind)}
    config = trl.DPOConfig(output_dir="x", use_cpu=True, bf16=False)
    for name, value in trl_names.DEFAULTS.items():
        theirs = getattr(config, name)
        assert getattr(theirs, "value", theirs) == value, name
    gone = {
        "torch_dtype",
        "warmup_ratio",
        "group_by_length",
        "overwrite_output_dir",
        "rpo_alpha",
    }  # names of earlier releases
    assert trl_names.READ - of_trl.keys() <= gone


@pytest.mark.slow
def test_the_command_prints_a_recipe_that_iwpo_takes(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"say {i}", "chosen": " red", "rejected": " blue"} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = RECIPE | {"model_name_or_path": "tiny", "dataset_name": "pairs.jsonl", "use_peft": False, "fsdp": "auto"}
    (tmp_path / "trl.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", "--from_trl", "trl.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "# fsdp: auto has no counterpart here" in printed
    (tmp_path / "ours.yaml").write_text(printed)
    assert main(["train", "--config", "ours.yaml", "--data.cache_dir", "cache", "--dry_run", "true"]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--from_trl"], "from_trl takes one file"),
        (["--from_trl", "a.yaml", "--seed", "1"], "from_trl takes one file"),
        (["--from_trl=absent.yaml"], "from_trl absent.yaml cannot be read"),
        (["--from_trl", "list.yaml"], "from_trl list.yaml holds no settings"),
        (["--from_trl", "broken.yaml"], "from_trl broken.yaml cannot be read"),
        (["--from_trl", "type.yaml"], "objective"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(arguments, sentence, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    (tmp_path / "type.yaml").write_text("loss_type: dpoo\n")
    assert main(["train", *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"truncation_mode": "keep_middle"}, "truncation_mode is keep_middle: choose among keep_start, keep_end"),
        ({"f_divergence_type": "chi"}, "f_divergence_type is chi: choose among reverse_kl"),
        ({"gradient_accumulation_steps": "eight"}, "gradient_accumulation_steps is 'eight': give a whole number"),
        ({"learning_rate": [1]}, r"learning_rate is \[1\]: give a number"),
        ({"loss_type": {"sigmoid": 1}}, "loss_type is {'sigmoid': 1}: give a word, or a list of words"),
        ({"loss_type": []}, "loss_type has 0 losses"),
        ({"loss_type": ["ipo", "sft"], "loss_weights": [1.0]}, "2 losses and loss_weights 1 numbers"),
        ({"loss_type": ["ipo", "sft"], "loss_weights": [1, -0.5]}, "loss_weights has -0.5 for sft, which is no weight"),
        ({"loss_type": ["ipo"], "loss_weights": [0]}, "loss_weights has nothing but 0"),
        ({"optim": ["adamw_torch"]}, r"optim is \['adamw_torch'\]: give a word"),
        ({"use_peft": "maybe"}, "use_peft is maybe: choose among true"),
    ],
)
def test_values_that_trl_would_not_take_are_said(recipe, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        translated(recipe)


def test_a_length_of_null_and_a_tracker_that_is_not_here_are_said() -> None:
    notes = translated({"max_length": None, "report_to": ["wandb", "mlflow"]}, processes=2).notes
    assert any(note.startswith("max_length: null cuts nothing in TRL") for note in notes)
    assert "report_to: mlflow has no counterpart here and is left out" in notes


EVALUATED = {"eval_strategy": "steps", "eval_on_start": False}


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (
            {"disable_dropout": False},
            "disable_dropout: false is not kept, because the model's own dropout is always off here",
        ),
        ({"dtype": "float16"}, "dtype: float16 is not kept, because weights that are trained are float32 here"),
        ({"torch_dtype": "auto"}, "torch_dtype: auto is not kept, because weights that are trained are float32 here"),
        ({"do_train": "false"}, "do_train: false keeps neither trl dpo nor iwpo train from training"),
        (EVALUATED, "eval_on_start: false is not kept, because held-out pairs are always evaluated before"),
    ],
    ids=str,
)
def test_what_needs_no_setting_and_differs_all_the_same_is_said(theirs, said) -> None:
    (note,) = translated(theirs, processes=2).notes
    assert note.startswith(said)


@pytest.mark.parametrize(
    "theirs",
    [
        {"disable_dropout": True},
        {"dtype": "float32"},
        {"do_train": True},
        {"eval_on_start": True, "eval_strategy": "steps"},
        {"eval_on_start": False},
    ],
    ids=str,
)
def test_what_needs_no_setting_and_is_the_same_is_named_alone(theirs) -> None:
    (note,) = translated(theirs, processes=2).notes
    assert note == f"left out, because nothing need be set in their place: {next(iter(theirs))}"


def test_a_setting_of_trl_is_translated_to_what_its_name_is_answered_with() -> None:
    shared = SAME.keys() & ELSEWHERE.keys()
    assert len(shared) > 10 and {name: SAME[name] for name in shared} == {name: ELSEWHERE[name] for name in shared}
