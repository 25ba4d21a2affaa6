"""The command `iwpo`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

from jsonargparse import ArgumentError, ArgumentParser

from iwpo_fast import __version__
from iwpo_fast.config import DemoConfig, TrainConfig

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 after a one-sentence error (set IWPO_DEBUG=1 to see where it came from); 130 after Ctrl-C.
    """
    parser = make_parser()
    try:
        parsed = parser.parse_args(arguments)
        settings = parser.instantiate(parsed)[parsed.subcommand]
        RUN[parsed.subcommand](settings)
    except (ArgumentError, ValueError) as error:
        if os.environ.get("IWPO_DEBUG") == "1":
            raise
        print(f"iwpo: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("iwpo: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="iwpo",
        description="Importance-weighted preference optimisation of language models.",
        version=__version__,
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("train", _parser_of(TrainConfig), help="train on preference pairs")
    commands.add_subcommand("demo", _parser_of(DemoConfig), help="run the whole job on a built-in example")
    return parser


def _parser_of(config: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file; flags after it override it.")
    parser.add_class_arguments(config)
    return parser


def _train(settings: object) -> None:
    from iwpo_fast.training import train

    _quieten_libraries()
    train(_dataclass_from(TrainConfig, settings))


def _demo(settings: object) -> None:
    from iwpo_fast.demo import run_demo

    _quieten_libraries()
    run_demo(_dataclass_from(DemoConfig, settings))


def _quieten_libraries() -> None:
    """Progress bars of loading and saving would tear the step-lines."""
    import transformers

    transformers.logging.disable_progress_bar()


def _dataclass_from(config: type[T], settings: object) -> T:
    return config(**{field.name: getattr(settings, field.name) for field in fields(config)})  # type: ignore[arg-type]


RUN = {"train": _train, "demo": _demo}
