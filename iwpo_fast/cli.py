"""The command `iwpo`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from safetensors import SafetensorError

from iwpo_fast import __version__
from iwpo_fast.cli_errors import as_sentence
from iwpo_fast.config import DemoConfig, RunConfig, TrainConfig
from iwpo_fast.recipe import MODE

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 after a one-sentence error (set IWPO_DEBUG=1 to see where it came from); 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        command, settings = _parse(arguments)
        RUN[command](settings)
    except (ValueError, OSError, SafetensorError) as error:
        if os.environ.get("IWPO_DEBUG") == "1":
            raise
        several = "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
        rank = f" on rank {os.environ['RANK']}" if several else ""
        print(f"iwpo: error{rank}: {' '.join(_sentence(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("iwpo: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: Sequence[str]) -> tuple[str, Any]:
    parser = make_parser()
    try:
        parsed = parser.parse_args(arguments)
        _check_groups(CONFIG[parsed.subcommand], parsed[parsed.subcommand])
        return parsed.subcommand, parser.instantiate(parsed)[parsed.subcommand]
    except (ArgumentError, UnicodeDecodeError) as error:
        raise ValueError(as_sentence(str(error), next(iter(set(arguments[:1]) & RUN.keys()), "train"))) from error


def _check_groups(config: type, settings: Any, prefix: str = "") -> None:
    for name, kind in get_type_hints(config).items():
        if is_dataclass(kind):
            if not isinstance(settings[name], Namespace):
                raise ValueError(f"{prefix}{name} is a group of settings: give them, or leave it out for the defaults.")
            _check_groups(kind, settings[name], f"{prefix}{name}.")  # type: ignore[arg-type]


def _sentence(error: Exception) -> str:
    """The errors of the library say what to do; those of files are the last resort, such as a disk that is full."""
    if isinstance(error, ValueError):
        return str(error)
    path = f" {error.filename}" if isinstance(error, OSError) and error.filename else ""
    reason = error.strerror or error if isinstance(error, OSError) else error
    return f"cannot read or write{path} ({reason}): check the path and the room on its disk, then run this again."


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


def _run(settings: object) -> None:
    from iwpo_fast.pipeline import run

    _quieten_libraries()
    options = {name: getattr(settings, key) for name, key in (("start", "from"), ("only", "only"), ("force", "force"))}
    run(_dataclass_from(RunConfig, settings), **options)


def _train(settings: object) -> None:
    from iwpo_fast.training import train

    _quieten_libraries()
    train(_dataclass_from(TrainConfig, settings))


def _demo(settings: object) -> None:
    from iwpo_fast.demo import run_demo
    from iwpo_fast.training.validation import check_folder, check_seed

    config = _dataclass_from(DemoConfig, settings)
    check_seed(config.seed)
    check_folder("output_dir", Path(config.output_dir))
    _quieten_libraries()
    run_demo(config)


def _quieten_libraries() -> None:
    """Progress bars of the libraries and advice to their callers would tear the step-lines."""
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")

    transformers.logging.disable_progress_bar()


def _dataclass_from(config: type[T], settings: object) -> T:
    return config(**{field.name: getattr(settings, field.name) for field in fields(config)})  # type: ignore[arg-type]


RUN = {"train": _train, "run": _run, "demo": _demo}
CONFIG = {"train": TrainConfig, "run": RunConfig, "demo": DemoConfig}
