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
HELP = {
    "preview": "look at pairs as they would be trained on",
    "train": "train on preference pairs",
    "run": "the whole job: rewards, importance weights, training",
    "score": "score completions with the reward model of a run",
    "evaluate": "evaluate a model on pairs and benchmarks",
    "report": "write what iwpo run has done as one page",
    "chat": "talk with a model, beside the one it was",
    "merge": "merge an adapter into its base",
    "doctor": "what is installed, what would run, and why",
    "recipes": "list or copy the recipes of the package",
    "demo": "run the whole job on a built-in example",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "train": {"from_trl": str | None},
    "run": {"from": str | None, "only": str | None, "force": bool, "baseline": bool},
    "preview": {"rows": str | None, "full": bool},
}
"""What commands take beside their configuration."""

MOST_OF_REASON = 200
"""Characters of the parser's own words, which are said where we know none."""


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """The command and its settings.

    Raises:
        ValueError: one sentence on what is wrong with the arguments.
    """
    command, *words = arguments or [""]
    parser = make_parser(command if command in CONFIG else None)
    if command in CONFIG:
        words = written_out(command, words, _hints_of(command))
    try:
        parsed = parser.parse_args([command, *words])
    except (ArgumentError, ValueError, OverflowError, IndexError) as error:  # the last two of YAML
        if command not in CONFIG:
            raise no_command(command, CONFIG) from error
        explain(command, words, CONFIG[command], _hints_of(command))
        reason = " ".join(str(error).split())[:MOST_OF_REASON]
        raise ValueError(f"the arguments cannot be read ({reason}): correct them.") from error
    command = parsed.subcommand
    settings = parsed[command].as_dict()
    settings.pop("config")
    check_settings(_hints_of(command), settings)
    return command, parser.instantiate(parsed)[command]


def _hints_of(command: str) -> dict[str, Any]:
    return hints_of(CONFIG[command]) | OPTIONS.get(command, {})


def make_parser(only: str | None = None) -> ArgumentParser:
    """The parser of all commands; if `only` names one, the others are known by name alone.

    To make the parser of a command takes a tenth of a second, because every field of its configuration is read.
    """
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
    for name, what in HELP.items():
        of_command = _parser_of(name) if only in (None, name) else ArgumentParser(exit_on_error=False)
        commands.add_subcommand(name, of_command, help=what)
    return parser


def _parser_of(command: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, parser_mode=MODE)
    parser.add_argument("--config", action="config", help="YAML file; flags after it override it.")
    parser.add_class_arguments(CONFIG[command])
    if command in MORE:
        MORE[command](parser)
    return parser


def _more_of_train(parser: ArgumentParser) -> None:
    parser.add_argument(  # `cli.main` answers it, and looks at nothing else then
        "--from_trl", type=str | None, help="Print this recipe of trl dpo in the settings of iwpo train, and end."
    )


def _more_of_run(parser: ArgumentParser) -> None:
    parser.add_argument("--from", type=str | None, help="Do this stage and all later ones again.")
    parser.add_argument("--only", type=str | None, help="Do this stage alone.")
    parser.add_argument("--force", type=bool, default=False, help="Do every stage again.")
    parser.add_argument(
        "--baseline", type=bool, default=False, help="Train plain DPO beside the run: adds dpo to arms."
    )


def _more_of_preview(parser: ArgumentParser) -> None:
    """It takes the settings of every recipe, so that `preview` can stand in the place of `train` or `run`."""
    parser.add_argument("--rows", type=str | None, help="Show these rows of data.path, such as 3,17.")
    parser.add_argument("--full", type=bool, default=False, help="Show texts whole, not their beginnings and ends.")


MORE = {"train": _more_of_train, "run": _more_of_run, "preview": _more_of_preview}
