"""Each mistake costs one sentence and exit code 2, before the first step and without a traceback."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

import pytest
from forked import run_forked
from safetensors import SafetensorError

from iwpo_fast.cli import RUN, main

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

GOOD = {"prompt": "say: a\n", "chosen": "a", "rejected": "b"}


def rows(*changed: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in [GOOD, *changed])


HH = "\n\nHuman: {}\n\nAssistant:{}"
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]

CASES = {
    "malformed JSON": ('{"prompt": "a"\n', [], "has malformed JSON on line 1 (Expecting"),
    "missing chosen": (rows({"prompt": "x", "rejected": "y"}), [], "row 2 has no chosen: add it"),
    "empty completion": (rows(GOOD | {"chosen": ""}), [], "row 2 has an empty completion in chosen"),
    "no list beside a string": (rows(GOOD | {"chosen": TALK}), [], "row 2 has a string and a list of messages"),
    "dialogues that differ early": (
        rows({"chosen": HH.format("a", " x"), "rejected": HH.format("b", " y")}),
        [],
        "row 2 has dialogues that differ before their first assistant turn",
    ),
    "messages that differ from the prompt": (
        rows({"prompt": "bye", "chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "no"}]}),
        [],
        "row 2 has a prompt that does not begin its conversations",
    ),
    "NaN weight": (rows().replace("}", ', "weight": NaN}'), [], "row 1 has the weight nan: make it a finite number"),
    "negative weight": (
        rows(GOOD | {"weight": -1.0}).replace('"b"}', '"b", "weight": 1.0}'),
        [],
        "row 2 has the negative weight -1.0: make it 0 or more",
    ),
    "missing weight": (rows(GOOD | {"weight": 1.0}), [], "row 1 has no weight although other rows have one"),
    "nothing left": (
        rows(),
        ["--data.truncation", "drop", "--data.max_length", "2"],
        "or choose another data.truncation than drop",
    ),
    "no such template": (rows(), ["--data.chat_template", "absent.jinja"], "data.chat_template absent.jinja cannot be"),
    "unknown truncation": (
        rows(),
        ["--data.truncation", "middle"],
        "data.truncation is middle: it must be one of drop, truncate_prompt_left, truncate_completion, error.",
    ),
    "unknown objective": (
        rows(),
        ["--objective.name", "dpoo"],
        "objective.name 'dpoo' is unknown (did you mean dpo?): choose one of",
    ),
    "unknown setting": (
        rows(),
        ["--optim.lrr", "1"],
        "unknown setting optim.lrr: did you mean --optim.lr? iwpo train --help lists them.",
    ),
    "unknown part of a group": (
        rows(),
        ["--model.lora.rang", "1"],
        "unknown setting model.lora.rang: did you mean --model.lora.rank? iwpo train",
    ),
    "beta zero": (
        rows(),
        ["--objective.beta", "0"],
        "beta of the objective sigmoid is 0.0: it must be a number, positive and finite.",
    ),
    "NaN rate": (rows(), ["--optim.lr", "nan"], "optim.lr is nan: it must be a finite number."),
    "NaN norm": (rows(), ["--optim.max_grad_norm", "nan"], "optim.max_grad_norm is nan: it must be a finite number or"),
    "NaN alpha": (rows(), ["--model.lora.alpha", "nan"], "model.lora.alpha is nan: it must be a finite number."),
    "alpha zero": (rows(), ["--model.lora.alpha", "0"], "model.lora.alpha is 0.0: it must be positive and finite."),
    "rank zero": (rows(), ["--model.lora.rank", "0"], "model.lora.rank is 0: it must be positive."),
    "dropout one": (rows(), ["--model.lora.dropout", "1"], "model.lora.dropout is 1.0: it must be in [0, 1)."),
    "modules": (rows(), ["--model.lora.target_modules", "["], "target_modules '[' is no regular expression"),
    "quantised and fully trained": (
        rows(),
        ["--model.quantize", "nf4", "--model.path", "m"],
        "model.quantize is nf4 but all weights are trained, and quantised weights cannot be: set model.lora",
    ),
    "quantised tiny model": (
        rows(),
        ["--model.quantize", "nf4", "--model.lora.rank", "2"],
        "model.quantize is nf4 but the tiny model is made, not read",
    ),
    "quantised and compiled": (
        rows(),
        ["--model.quantize", "nf4", "--model.path", "m", "--model.lora.rank", "2", "--model.compile", "true"],
        "model.quantize is nf4 and model.compile is true, but products with quantised weights do not compile",
    ),
    "padded and in slices": (
        rows(),
        ["--context_parallel", "2", "--model.batch_layout", "padded"],
        "context_parallel is 2 and model.batch_layout is padded, but only flat batches are split: set batch_layout to",
    ),
    "noise in slices": (
        rows(),
        ["--context_parallel", "2", "--model.neftune_alpha", "5"],
        "context_parallel is 2 and model.neftune_alpha is 5.0, but the noise of a sequence is drawn in one process",
    ),
    "slices for processes that are not there": (
        rows(),
        ["--context_parallel", "2"],
        "context_parallel is 2 but the job's 1 processes cannot be split into groups of 2: set a number that divides 1",
    ),
    "compiled and selective": (
        rows(),
        ["--model.compile", "true", "--model.gradient_checkpointing", "selective"],
        "model.gradient_checkpointing is selective and model.compile is true, but compiled layers",
    ),
    "offloading of nothing": (
        rows(),
        ["--model.offload_activations", "true"],
        "model.offload_activations is true but model.gradient_checkpointing is none",
    ),
    "revision of tiny": (rows(), ["--model.revision", "main"], "model.revision is main but the tiny model has none"),
    "attention of a GPU, before data are read": (
        "no JSON",
        ["--model.attention", "varlen", "--device", "cpu"],
        "model.attention is varlen, which is made for half precision on CUDA and ROCm GPUs, but this run computes in "
        "float32 on cpu: set auto, or one of sdpa_by_length, eager_by_length.",
    ),
    "unknown attention": (rows(), ["--model.attention", "fast"], "model.attention is fast: it must be one of auto, fl"),
    "large seed": (rows(), ["--seed", str(2**32)], "it must be 0 or more and less than 2**32."),
    "no heads": (rows(), ["--model.tiny.heads", "0"], "model.tiny.heads is 0: it must be positive."),
    "negative heads": (rows(), ["--model.tiny.heads", "-2"], "model.tiny.heads is -2: it must be positive."),
    "no width": (rows(), ["--model.tiny.hidden_size", "0"], "model.tiny.hidden_size is 0: it must be positive."),
    "negative width": (rows(), ["--model.tiny.hidden_size", "-32"], "model.tiny.hidden_size is -32: it must be"),
    "no layers": (rows(), ["--model.tiny.layers", "0"], "model.tiny.layers is 0: it must be positive."),
    "negative layers": (rows(), ["--model.tiny.layers", "-1"], "model.tiny.layers is -1: it must be positive."),
    "meta device": (rows(), ["--device", "meta"], "device 'meta' is unknown: use auto, cpu, cuda"),
    "other device": (rows(), ["--device", "xla"], "device 'xla' is unknown: use auto, cpu, cuda"),
    "tracker not installed": (rows(), ["--log.trackers", "[trackio]"], "pip install trackio"),
    "project without a tracker": (
        rows(),
        ["--log.project", "mine"],
        "log.project is mine and log.trackers names neither wandb nor trackio, which alone have one",
    ),
    "fraction beside evaluation data": (
        rows(),
        ["--data.eval_path", "held_out.jsonl", "--data.eval_fraction", "0.1"],
        "data.eval_fraction is 0.1 and data.eval_path is held_out.jsonl, which alone is held out then: set",
    ),
    "floor of a constant rate": (
        rows(),
        ["--optim.schedule", "constant", "--optim.min_lr_fraction", "0.1"],
        "optim.min_lr_fraction is 0.1 and optim.schedule is constant, which stays at its peak: leave",
    ),
}

RECIPES = {
    "unknown setting": (
        "optim: {learning: 1}",
        "unknown setting optim.learning: did you mean optim.lr? iwpo train --help",
    ),
    "unknown part of a group": (
        "model: {lora: {rang: 1}}",
        "unknown setting model.lora.rang: did you mean model.lora.rank? iwpo train",
    ),
    "twice": ("optim: {lr: 1}\noptim: {epochs: 2}", "the recipe sets optim twice, again in line 3: keep one of them."),
    "twice inside": ("optim:\n  lr: 1\n  lr: 2", "the recipe sets lr twice, again in line 4: keep one of them."),
    "null group": ("optim: null", "optim is a group of settings: give them, or leave it out for the defaults."),
    "number for a group": ("model: {tiny: 5}", "model.tiny is a group of settings: give them, or leave it out"),
    "malformed": ("optim: {lr: 1", "the recipe is no valid YAML at line 3, column 1: correct it there."),
    "choice": ("model: {precision: fp8}", "model.precision is fp8: it must be one of auto, fp32, bf16."),
}


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code = main(["train", *arguments])
    errors = capsys.readouterr().err
    sentences = [line for line in errors.splitlines() if line.startswith("iwpo: error: ")]
    assert code == 2
    assert len(sentences) == 1
    assert "Traceback" not in errors
    return sentences[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_bad_data_and_settings_are_one_sentence(case, tmp_path, capsys) -> None:
    content, flags, expected = CASES[case]
    data = tmp_path / "pairs.jsonl"
    data.write_text(content)
    common = [
        "--data.path",
        str(data),
        "--data.eval_fraction",
        "0",
        "--data.cache_dir",
        str(tmp_path / "cache"),
    ]
    tiny = ["--model.tiny.hidden_size", "32", "--model.tiny.heads", "2", "--device", "cpu"]
    out = tmp_path / "run"
    assert expected in run([*common, *tiny, "--output_dir", str(out), *flags], capsys)
    made = {path.name for path in tmp_path.iterdir()} - {"pairs.jsonl"}
    assert made == ({"cache"} if case == "nothing left" else set())  # which shows only after tokenising


@pytest.mark.slow
def test_a_missing_file_is_named(tmp_path, capsys) -> None:
    assert "absent.jsonl" in run(["--data.path", str(tmp_path / "absent.jsonl")], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("case", RECIPES)
def test_bad_recipes_are_one_sentence(case, tmp_path, capsys) -> None:
    content, expected = RECIPES[case]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{path: pairs.jsonl}}\n{content}\n")
    assert expected in run(["--config", str(recipe)], capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "the recipe holds no settings"), (b"- a", "the recipe holds no settings"), (b"\xff\x00", "is not text")],
)
def test_files_that_are_no_recipe_are_one_sentence(content, expected, tmp_path, capsys) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(content)
    assert expected in run(["--config", str(recipe)], capsys)
    assert "absent.yaml does not exist" in run(["--config", "absent.yaml"], capsys)


def test_a_truncated_archive_is_named(tmp_path, capsys) -> None:
    data = tmp_path / "pairs.jsonl.gz"
    data.write_bytes(gzip.compress(rows().encode() * 50)[:-20])
    assert "pairs.jsonl.gz cannot be unpacked" in run(["--data.path", str(data)], capsys)


@pytest.mark.slow
def test_a_run_of_another_configuration_is_refused(tmp_path, capsys) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(rows(GOOD | {"prompt": "say: b\n"}))
    flags = f"--data.path {data} --data.eval_fraction 0 --data.cache_dir {tmp_path}/cache --output_dir {tmp_path}/run"
    tiny = "--device cpu --model.tiny.hidden_size 32 --model.tiny.heads 2 --model.tiny.layers 1"
    same = [*flags.split(), *tiny.split()]
    assert main(["train", *same]) == 0
    capsys.readouterr()
    assert "holds a run of another configuration, optim.lr=0.5 (was 1e-06): restore" in run(
        [*same, "--optim.lr", "0.5"], capsys
    )


@pytest.mark.parametrize("setting", ["output_dir", "data.cache_dir"])
def test_folders_that_cannot_be_made_are_refused(setting, tmp_path, capsys) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(rows())
    message = run(["--data.path", str(data), f"--{setting}", str(data / "below")], capsys)
    assert f"{setting} is {data}/below but {data} is a file: choose another {setting}." in message


def train_in(folder: Path, output_dir: str) -> None:
    """As another user where this one is root, who may write anywhere; from the moment that the command has been read.

    By then everything is imported, which that user may not be allowed to read.
    """
    os.chdir(folder)
    train = RUN["train"]

    def as_another_user(settings: object) -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        train(settings)

    RUN["train"] = as_another_user
    sys.exit(main(["train", "--data.path", "x", "--output_dir", output_dir]))


@pytest.mark.slow
def test_a_folder_without_permission_is_refused(tmp_path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    tmp_path.chmod(0o711)
    done = run_forked(train_in, tmp_path, "locked/run")
    assert done.exitcode == 2
    assert "output_dir is locked/run but locked may not be written to: choose another output_dir." in done.said


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_a_variable_of_torchrun_that_is_no_number_is_named(variable, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv(variable, "x")
    message = run(["--data.path", "x", "--output_dir", str(tmp_path / "run")], capsys)
    assert f"The environment variable {variable} is 'x': unset it, or let torchrun set it." in message


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"RANK": "3"}, "RANK is 3 and WORLD_SIZE is 1, but ranks count from 0: unset both"),
        ({"RANK": "5", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "RANK is 5 and WORLD_SIZE is 2, but ranks"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set: unset WORLD_SIZE to be one process"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2 and MASTER_ADDR is not set"),
    ],
)
def test_variables_that_describe_no_job_are_one_sentence(variables, sentence, tmp_path, capsys, monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    main(["train", "--data.path", "x", "--output_dir", str(tmp_path / "run")])
    assert f"The environment variable {sentence}" in capsys.readouterr().err


def test_an_error_in_a_job_of_several_processes_names_the_rank(capsys, monkeypatch) -> None:
    def fail(settings: object) -> None:
        raise ValueError("the data are gone.")

    monkeypatch.setitem(RUN, "train", fail)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["train", "--data.path", "x"]) == 2
    assert capsys.readouterr().err == "iwpo: error on rank 3: the data are gone.\n"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "step-1"), SafetensorError("No space left")])
def test_a_full_disk_is_one_sentence(error, capsys, monkeypatch) -> None:
    def full(settings: object) -> None:
        raise error

    monkeypatch.setitem(RUN, "train", full)
    message = run(["--data.path", "x"], capsys)
    assert "(No space left" in message
    assert "check the path and the room on its disk, then run this again." in message


@pytest.mark.slow
def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path, capsys) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.tex").write_text("draft")
    data = tmp_path / "pairs.jsonl"
    data.write_text(rows())
    message = run(["--data.path", str(data), "--output_dir", str(precious)], capsys)
    assert "is not a run" in message
    assert [path.name for path in precious.iterdir()] == ["chapter1.tex"]


@pytest.mark.slow
def test_a_file_as_output_folder_is_refused(tmp_path, capsys) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(rows())
    assert "is a file" in run(["--data.path", str(data), "--output_dir", str(data)], capsys)
    assert Path(data).read_text() == rows()
