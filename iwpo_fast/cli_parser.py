"""The parser of the command `iwpo`: its settings are the fields of the configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from iwpo_fast import __version__
from iwpo_fast.cli_errors import as_sentence
from iwpo_fast.config import DemoConfig, RunConfig, TrainConfig
from iwpo_fast.recipe import MODE

CONFIG = {"train": TrainConfig, "run": RunConfig, "demo": DemoConfig}


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """The command and its settings.

    Raises:
        ValueError: one sentence on what is wrong with the arguments.
    """
    parser = make_parser()
    try:
        parsed = parser.parse_args(arguments)
        _check_groups(CONFIG[parsed.subcommand], parsed[parsed.subcommand])
        return parsed.subcommand, parser.instantiate(parsed)[parsed.subcommand]
    except (ArgumentError, UnicodeDecodeError) as error:
        raise ValueError(as_sentence(str(error), next(iter(set(arguments[:1]) & CONFIG.keys()), "train"))) from error


def _check_groups(config: type, settings: Any, prefix: str = "") -> None:
    for name, kind in get_type_hints(config).items():
        if is_dataclass(kind):
            if not isinstance(settings[name], Namespace):
                raise ValueError(f"{prefix}{name} is a group of settings: give them, or leave it out for the defaults.")
            _check_groups(kind, settings[name], f"{prefix}{name}.")  # type: ignore[arg-type]


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="iwpo",
        description="Importance-weighted preference optimisation of language models.",
        version=__version__,
        exit_on_error=False,
        parser_mode=MODE,
    )
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("train", _parser_of(TrainConfig), help="train on preference pairs")
    commands.add_subcommand("run", _run_parser(), help="the whole job: rewards, importance weights, training")
    commands.add_subcommand("demo", _parser_of(DemoConfig), help="run the whole job on a built-in example")
    return parser


def _parser_of(config: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, parser_mode=MODE)
    parser.add_argument("--config", action="config", help="YAML file; flags after it override it.")
    parser.add_class_arguments(config)
    return parser


def _run_parser() -> ArgumentParser:
    parser = _parser_of(RunConfig)
    parser.add_argument("--from", type=str | None, help="Do this stage and all later ones again.")
    parser.add_argument("--only", type=str | None, help="Do this stage alone.")
    parser.add_argument("--force", type=bool, default=False, help="Do every stage again.")
    return parser
