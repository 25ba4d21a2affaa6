from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from iwpo_fast.cli import main, make_parser

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def parse(*arguments: str):
    return make_parser().parse_args(["train", *arguments]).train


def test_flags_after_a_recipe_override_it(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {path: a.jsonl}\noptim: {lr: 1e-5, epochs: 2}\n")
    settings = parse("--config", str(recipe), "--optim.lr", "1e-6")
    assert (settings.optim.lr, settings.optim.epochs, settings.data.path) == (1e-6, 2.0, "a.jsonl")


def test_print_config_prints_a_recipe_that_parses_to_the_same_settings(tmp_path, capsys):
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


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(recipe):
    needed = [] if "path" in (yaml.safe_load(recipe.read_text()).get("data") or {}) else ["--data.path", "x"]
    assert parse("--config", str(recipe), *needed).output_dir


def test_the_help_of_every_command_names_its_settings(capsys):
    for command, setting in (("train", "--optim.lr"), ("demo", "--output_dir")):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert setting in capsys.readouterr().out
