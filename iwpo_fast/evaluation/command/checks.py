"""What the settings of an evaluation must be together, and the files that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from iwpo_fast.command_config import EvaluateConfig
from iwpo_fast.data.places import local_files
from iwpo_fast.files import check_folder
from iwpo_fast.paths import expanded

OF_ANSWERS = ("answers.json", "alpaca_eval.json", "mt_bench.jsonl")


class Outputs(NamedTuple):
    """The report, and the files of answers beside it."""

    report: Path

    def answers(self, who: str, name: str) -> Path:
        """Such as `report-answers.json`, and `report-against-answers.json` for what `model` is compared with.

        Args:
            who: `model` or `against`.
        """
        return self.report.with_name(f"{self.report.stem}{'-against' if who == 'against' else ''}-{name}")


def check(config: EvaluateConfig) -> Outputs:
    """The files to write.

    Raises:
        ValueError: there is nothing to evaluate on, a setting has no effect, or a file to read would be lost.
    """
    asked = {name: getattr(config, name) for name in ("rewardbench", "alpaca_eval", "mt_bench")}
    if config.data is None and not any(asked.values()):
        raise ValueError("There is nothing to evaluate on: give data.path, rewardbench, alpaca_eval or mt_bench.")
    if config.reward_model is not None and config.data is None and config.rewardbench is None:
        raise ValueError("reward_model judges answers to data and RewardBench: give data.path or rewardbench.")
    if config.language_model is not None and config.reward_model is None:
        raise ValueError("language_model is what a reward model reads: give reward_model, or leave it out.")
    _check_room(config)
    if not config.output.endswith(".json"):
        raise ValueError(f"output is {config.output}: give the name of a file that ends in .json.")
    outputs = Outputs(expanded(config.output))
    if outputs.report.is_dir():
        raise ValueError(f"output is {config.output}, which is a folder: give the name of a file.")
    check_folder("output", outputs.report.parent)
    _check_nothing_lost(config, outputs)
    if config.cache_dir is not None:
        check_folder("cache_dir", expanded(config.cache_dir))
    return outputs


def _check_room(config: EvaluateConfig) -> None:
    draws = (config.data is not None and config.answers.per_prompt) or config.alpaca_eval or config.mt_bench
    if draws and config.answers.max_new_tokens >= config.max_length:
        raise ValueError(
            f"answers.max_new_tokens is {config.answers.max_new_tokens} and max_length is {config.max_length}, which "
            "leaves no room for a prompt: lower the one or raise the other."
        )


def _check_nothing_lost(config: EvaluateConfig, outputs: Outputs) -> None:
    of_data = None if config.data is None else config.data.path
    given = [config.rewardbench, config.alpaca_eval, config.mt_bench, of_data]
    read = {file.resolve() for path in given if path is not None for file in local_files(path)}
    written = [outputs.report, *(outputs.answers(who, name) for who in ("model", "against") for name in OF_ANSWERS)]
    for path in written:
        if path.resolve() in read:
            raise ValueError(f"{path} is to be read and would be written over: choose another output.")
