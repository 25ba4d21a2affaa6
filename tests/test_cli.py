from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from jsonargparse import ArgumentError

from iwpo_fast import cli_parser
from iwpo_fast.cli import READER_HAS_LEFT, RUN, dataclass_from, main
from iwpo_fast.cli_errors import explain
from iwpo_fast.cli_parser import CONFIG, OPTIONS, make_parser
from iwpo_fast.cli_words import written_out
from iwpo_fast.config import ExperimentalConfig, ObjectiveConfig, RunConfig, TrainConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.limits import groups_of, hints_of, names_of
from iwpo_fast.nearest import ELSEWHERE

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def parse(*arguments: str) -> Any:
    return make_parser("train").parse_args(["train", *arguments]).train


def test_flags_after_a_recipe_override_it(tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {path: a.jsonl}\noptim: {lr: 1e-5, epochs: 2}\n")
    settings = parse("--config", str(recipe), "--optim.lr", "1e-6")
    assert (settings.optim.lr, settings.optim.epochs, settings.data.path) == (1e-6, 2.0, "a.jsonl")


@pytest.mark.slow
def test_print_config_prints_a_recipe_that_parses_to_the_same_settings(tmp_path, capsys) -> None:
    flags = ["--data.path", "a.jsonl", "--model.lora.rank", "8", "--data.columns", "{chosen: better}"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *flags, "--print_config"])
    assert stop.value.code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert yaml.safe_load(printed.read_text())["model"]["lora"]["rank"] == 8
    again, first = parse("--config", str(printed)), parse(*flags)
    again.config = first.config = None
    assert again == first


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_configurations_that_can_run(recipe, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    checked = []
    recipe_of = yaml.safe_load(recipe.read_text())
    of_pipeline = recipe_of.keys() & {"weights", "candidates", "arms"}
    command, config = ("run", RunConfig) if of_pipeline else ("train", TrainConfig)
    monkeypatch.setitem(RUN, command, lambda settings: checked.append(check_config(dataclass_from(config, settings))))
    needed = [] if "path" in (recipe_of.get("data") or {}) else ["--data.path", "x"]
    assert main([command, "--config", str(recipe), *needed]) == 0
    assert checked == [None]
    assert main([command, "--config", str(recipe), *needed, "--objective.name", "none"]) == 2


@pytest.mark.slow
def test_numbers_in_a_recipe_may_be_written_like_on_the_command_line(tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {path: a.jsonl}\noptim: {lr: 1e-5, betas: [0.9, 1e-1]}\nmodel: {lora: {alpha: 8}}\n")
    settings = parse("--config", str(recipe))
    assert (settings.optim.lr, tuple(settings.optim.betas), settings.model.lora.alpha) == (1e-5, (0.9, 0.1), 8.0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["xyzzy"], "no such command: choose iwpo preview, train, run, score"),
        (["trian"], "no such command: did you mean iwpo train? choose iwpo preview, train, run, score"),
        (["demo", "--sed", "1"], "unknown setting sed: did you mean --seed? iwpo demo --help lists them."),
        (["train", "--optim.max_step", "6"], "unknown setting optim.max_step: did you mean --optim.max_steps? iwpo"),
        (["train", "--xyzzy", "6"], "unknown setting xyzzy: iwpo train --help lists them."),
        (["demo", "--seed", "-1"], "seed is -1: it must be 0 or more and less than 2**32."),
        (["demo", "--output_dir", __file__], f"output_dir is {__file__} but {__file__} is a file: choose another"),
        (["train"], "data.path is missing: give --data.path or set it in the recipe."),
        (["train", "pairs.jsonl"], "pairs.jsonl belongs to no setting: write --SETTING VALUE."),
        (["train", "--seed"], "seed has no value: write --seed VALUE."),
        (["train", "--optim.max_steps", "x"], "optim.max_steps is x: it must be a whole number or null."),
        (["train", "--optim.betas", "[1,2,3]"], "optim.betas is [1, 2, 3]: it must be a list of two numbers."),
        (["train", "--model.lora", "x"], "model.lora is x: it must be a group of settings or null."),
        (["train", "--optim.max_grad_norm="], "optim.max_grad_norm is '': it must be a finite number or null."),
        (["train", "--optim.lr", "!!float ''"], "optim.lr is !!float '': it must be a finite number."),
        (
            ["train", "--data.chat_template=--"],
            "data.chat_template is --, which no setting may be: give another",
        ),
        (["run", "--data.path=x", "--plan.data.prompts=3"], "plan.data.prompt_tokens is missing: give"),
        (["train", "--data", "a\0b"], "data is a group of settings: set them one by one, such as --data.NAME VALUE."),
        (["train", "--optim", "x"], "optim is a group of settings: set them one by one, such as --optim.NAME VALUE."),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(arguments, expected, capsys) -> None:
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"iwpo: error: {expected}")
    assert errors.count("\n") == 1


def test_what_only_the_parser_knows_is_one_sentence_too(monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli_parser, "explain", lambda *_: None)
    assert main(["train", "--optim.lr", "x"]) == 2
    assert re.fullmatch(r"iwpo: error: the arguments cannot be read \(.+\): correct them\.\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("lr", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("learning-rate", "optim.lr"),
        ("beta", "objective.beta"),
        ("lora_r", "model.lora.rank"),
        ("max_step", "optim.max_steps"),
        ("model_name_or_path", "model.path"),
        ("warmup_ratio", "optim.warmup_fraction"),
    ],
)
def test_a_setting_by_the_name_that_others_give_it_is_answered_with_ours(flag, meant, capsys) -> None:
    assert main(["train", f"--{flag}", "1"]) == 2
    assert f"unknown setting {flag}: did you mean --{meant}?" in capsys.readouterr().err


def test_every_setting_that_is_proposed_exists() -> None:
    known = set(names_of(hints_of(RunConfig)))
    assert set(ELSEWHERE.values()) <= known
    assert not known & ELSEWHERE.keys() - {"model", "data"}


def test_the_command_alone_prints_its_help(capsys) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {command} " in shown for command in RUN)


def test_a_truth_value_needs_no_value() -> None:
    hints = hints_of(RunConfig)
    words = ["--dry_run", "--data.as_chat", "--optim.lr", "1", "--deterministic", "false", "--weights.force"]
    assert written_out("run", words, hints) == [
        *("--dry_run=true", "--data.as_chat=true", "--optim.lr", "1", "--deterministic", "false"),
        "--weights.force=true",
    ]
    assert written_out("run", ["--optim.lr", "--seed"], hints) == ["--optim.lr", "--seed"], "only truth values have one"


@pytest.mark.parametrize("flags", [["--objective", "simpo"], ["--objective=simpo"], ["--objective", "{simpo: 1.0}"]])
def test_an_objective_is_named_in_short(flags, monkeypatch) -> None:
    seen = []
    monkeypatch.setitem(RUN, "train", lambda settings: seen.append(settings.objective.name))
    assert main(["train", "--data.path", "x", *flags, "--dry_run"]) == 0
    assert seen in (["simpo"], [{"simpo": 1.0}])


@pytest.mark.slow
def test_the_page_of_commands_has_each_with_an_example_that_is_one() -> None:
    page = (Path(__file__).parent.parent / "docs" / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(RUN) == list(CONFIG)
    examples = [line.split()[1:] for line in re.findall(r"^iwpo .*$", page, flags=re.MULTILINE) if "error:" not in line]
    shown = [line for line in examples if not line[0].endswith(":")]
    assert [command for command, *_ in shown] == list(RUN)
    for command, *words in shown:
        hints = hints_of(CONFIG[command]) | OPTIONS.get(command, {})
        make_parser(command).parse_args([command, *written_out(command, words, hints)])


def test_a_group_of_objective_settings_stays_one() -> None:
    assert written_out("run", ["--objective", "{name: ipo, beta: 1}"], hints_of(RunConfig))[0] == "--objective"


def test_dpo_is_a_name_of_sigmoid() -> None:
    assert ObjectiveConfig("dpo") == ObjectiveConfig("sigmoid")
    assert ObjectiveConfig({"dpo": 0.5, "sft": 1.0}).name == {"sigmoid": 0.5, "sft": 1.0}
    with pytest.raises(ValueError, match="which has one objective by two names: give it once"):
        ObjectiveConfig({"dpo": 0.5, "sigmoid": 1.0})


def test_help_shows_the_settings_of_an_adapter_with_their_defaults(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--model.lora.rank RANK Rank of the update matrices. (default: 16)" in shown
    assert "--rewards.tuning.optim" in shown


def test_nothing_heavy_is_imported_before_the_number_of_threads_is_settled() -> None:
    program = "import sys, iwpo_fast.cli, iwpo_fast.cli_parser; print(*{'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.slow
def test_advice_to_the_callers_of_libraries_stays_off_the_terminal() -> None:
    program = """
import warnings
from iwpo_fast.cli import _quieten_libraries
_quieten_libraries()
for module in ("transformers.modeling_utils", "peft", "transformers_fork", "elsewhere"):
    warnings.warn_explicit(module, FutureWarning, "file.py", 1, module=module)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in done.stderr.splitlines() if "FutureWarning" in line] == [
        "transformers_fork",
        "elsewhere",
    ]


@pytest.mark.slow
def test_a_reader_who_has_seen_enough_gets_no_sentence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        command = [sys.executable, "-m", "iwpo_fast", "recipes"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (READER_HAS_LEFT, "")


@pytest.mark.slow
def test_the_help_of_every_command_names_its_settings(capsys) -> None:
    for command, setting in (
        ("train", "--optim.lr"),
        ("score", "--reward_model"),
        ("evaluate", "--against"),
        ("demo", "--output_dir"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert setting in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "name"),
    [("ipo", "ipo"), ("{sigmoid: 0.8, sft: 1.0}", {"sigmoid": 0.8, "sft": 1.0}), ("{name: hinge, beta: 0.2}", "hinge")],
)
def test_recipes_may_name_an_objective_or_a_mixture_in_short(tmp_path, written, name) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{path: pairs.jsonl}}\nobjective: {written}\n")
    parser = make_parser("train")
    settings = parser.instantiate(parser.parse_args(["train", "--config", str(recipe)]))
    assert settings.train.objective.name == name


@pytest.mark.parametrize("command", ["train", "run", "score", "demo"])
def test_help_shows_types_without_their_limits_and_no_experimental_settings(command, capsys) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "Annotated" not in shown and "Limits" not in shown
    assert "ratio_scale" not in shown


def test_experimental_settings_are_taken_and_printed_although_help_leaves_them_out(tmp_path, capsys) -> None:
    flags = ["--data.path", "a.jsonl", "--weights.experimental.ratio_scale", "2"]
    with pytest.raises(SystemExit):
        main(["run", *flags, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["weights"]["experimental"]["ratio_scale"] == 2.0
    assert set(printed["weights"]["experimental"]) == set(vars(ExperimentalConfig()))


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("weights: {ratio_alpha: 2}", "weights.ratio_alpha is experimental now: set weights.experimental.ratio_alpha"),
        (
            "weights: {method: rejection}",
            "weights.method rejection is experimental now: set weights.experimental.method",
        ),
        ("weights: {experimental: {ratio: 2}}", "unknown setting weights.experimental.ratio: did you mean"),
        ("rewards: {tuning: 5}", "rewards.tuning is 5: it must be a group of settings or null."),
        ("optim: {lr: null}", "optim.lr is null: it must be a finite number."),
        ("model: null", "model is a group of settings: give them, or leave it out for the defaults."),
        ("1: 2", "unknown setting 1: iwpo run --help lists them."),
    ],
)
def test_mistakes_in_a_recipe_are_one_sentence(recipe, expected, tmp_path, capsys) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe + "\n")
    assert main(["run", "--config", str(path), "--data.path", "x"]) == 2
    assert capsys.readouterr().err.startswith(f"iwpo: error: {expected}")


@pytest.mark.parametrize("setting", ["optim.lr", "optim.eps", "data.eval_fraction", "data.max_length", "seed"])
def test_numbers_that_nothing_holds_are_refused_by_name(setting, capsys) -> None:
    assert main(["train", "--data.path", "x", f"--{setting}", "9" * 400]) == 2
    assert capsys.readouterr().err.startswith(f"iwpo: error: {setting} is 999")


def leaves(config: type, group: str = "") -> list[str]:
    found = []
    for name, hint in hints_of(config).items():
        inner = groups_of(hint)
        found += leaves(inner[0], f"{group}{name}.") if inner else [f"{group}{name}"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("text", ["null", "x", "[1]", "{a: 1}", "1.5"])
def test_whatever_the_parser_refuses_is_explained(text) -> None:
    """In our words, whatever those of jsonargparse are.

    Inside an optional group it refuses some values that are right, such as null; its own words are shown then.
    """
    parser, hints = make_parser("run"), hints_of(RunConfig)
    refused = 0
    for name in leaves(RunConfig):
        words = ["--data.path", "x", f"--{name}", text]
        try:
            parser.parse_args(["run", *words], defaults=False)  # it refuses no default, and to check them takes long
        except ArgumentError:
            try:
                explain("run", words, RunConfig, hints)
            except ValueError as error:
                refused += 1
                assert re.match(rf"{re.escape(name)} is .*: it must be ", str(error))
            else:
                assert name.startswith(("model.lora.", "rewards.tuning.", "sampled_kl.", "types."))
    assert refused > 20
