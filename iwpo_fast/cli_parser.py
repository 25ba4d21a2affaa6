"""The parser of the command `iwpo`: its settings are the fields of the configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from iwpo_fast import __version__
from iwpo_fast.cli_errors import explain, no_command
from iwpo_fast.cli_help import Help
from iwpo_fast.cli_words import written_out
from iwpo_fast.command_config import (
    ChatConfig,
    DemoConfig,
    DoctorConfig,
    EvaluateConfig,
    MergeConfig,
    RecipesConfig,
    ReportConfig,
    ScoreConfig,
)
from iwpo_fast.config import RunConfig, TrainConfig
from iwpo_fast.limits import check_settings, hints_of
from iwpo_fast.recipe import MODE

CONFIG: dict[str, type] = {
    "preview": RunConfig,
    "train": TrainConfig,
    "run": RunConfig,
    "score": ScoreConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "chat": ChatConfig,
    "merge": MergeConfig,
    "doctor": DoctorConfig,
    "recipes": RecipesConfig,
    "demo": DemoConfig,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "train": {"from_trl": str | None},
    "run": {"from": str | None, "only": str | None, "force": bool, "baseline": bool},
    "preview": {"rows": str | None, "full": bool},
}
"""What commands take beside their configuration."""


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """The command and its settings.

    Raises:
        ValueError: one sentence on what is wrong with the arguments.
    """
    parser = make_parser()
    command, *words = arguments or [""]
    if command in CONFIG:
        words = written_out(command, words, _hints_of(command))
    try:
        parsed = parser.parse_args([command, *words])
    except (ArgumentError, UnicodeDecodeError, OverflowError) as error:
        if command not in CONFIG:
            raise no_command(command, CONFIG) from error
        explain(command, words, CONFIG[command], _hints_of(command))
        raise ValueError(str(error)) from error
    command = parsed.subcommand
    settings = parsed[command].as_dict()
    settings.pop("config")
    check_settings(_hints_of(command), settings)
    return command, parser.instantiate(parsed)[command]


def _hints_of(command: str) -> dict[str, Any]:
    return hints_of(CONFIG[command]) | OPTIONS.get(command, {})


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="iwpo",
        description="Importance-weighted preference optimisation of language models.",
        version=__version__,
        exit_on_error=False,
        parser_mode=MODE,
        formatter_class=Help,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("preview", _preview_parser(), help="look at pairs as they would be trained on")
    commands.add_subcommand("train", _train_parser(), help="train on preference pairs")
    commands.add_subcommand("run", _run_parser(), help="the whole job: rewards, importance weights, training")
    commands.add_subcommand("score", _parser_of(ScoreConfig), help="score completions with the reward model of a run")
    commands.add_subcommand("evaluate", _parser_of(EvaluateConfig), help="evaluate a model on pairs and benchmarks")
    commands.add_subcommand("report", _parser_of(ReportConfig), help="write what a run has done as one page")
    commands.add_subcommand("chat", _parser_of(ChatConfig), help="talk with a model, beside the one it was")
    commands.add_subcommand("merge", _parser_of(MergeConfig), help="merge an adapter into its base")
    commands.add_subcommand("doctor", _parser_of(DoctorConfig), help="what is installed, what would run, and why")
    commands.add_subcommand("recipes", _parser_of(RecipesConfig), help="list or copy the recipes of the package")
    commands.add_subcommand("demo", _parser_of(DemoConfig), help="run the whole job on a built-in example")
    return parser


def _parser_of(config: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, parser_mode=MODE)
    parser.add_argument("--config", action="config", help="YAML file; flags after it override it.")
    parser.add_class_arguments(config)
    return parser


def _train_parser() -> ArgumentParser:
    parser = _parser_of(TrainConfig)
    parser.add_argument(  # `cli.main` answers it, and looks at nothing else then
        "--from_trl", type=str | None, help="Print this recipe of trl dpo in the settings of iwpo train, and end."
    )
    return parser


def _run_parser() -> ArgumentParser:
    parser = _parser_of(RunConfig)
    parser.add_argument("--from", type=str | None, help="Do this stage and all later ones again.")
    parser.add_argument("--only", type=str | None, help="Do this stage alone.")
    parser.add_argument("--force", type=bool, default=False, help="Do every stage again.")
    parser.add_argument(
        "--baseline", type=bool, default=False, help="Train plain DPO beside the run: adds dpo to arms."
    )
    return parser


def _preview_parser() -> ArgumentParser:
    """It takes the settings of every recipe, so that `preview` can stand in the place of `train` or `run`."""
    parser = _parser_of(RunConfig)
    parser.add_argument("--rows", type=str | None, help="Show these rows of data.path, such as 3,17.")
    parser.add_argument("--full", type=bool, default=False, help="Show texts whole, not their beginnings and ends.")
    return parser
