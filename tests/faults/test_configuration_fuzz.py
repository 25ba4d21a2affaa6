"""Settings from Python, from flags and from recipes: a configuration that can be, or one sentence that names a setting.

Most are only checked, which is where the commands begin; some go through a dry run. All in this process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from effort import refused_with, tries
from hypothesis import given
from hypothesis import strategies as st
from sentences import in_time, is_sentence
from strange_settings import TEXTS, VALUES, leaves

from iwpo_fast.cli import RUN, main
from iwpo_fast.config import DataConfig, DataShapeConfig, RunConfig, TrainConfig, dataclass_from
from iwpo_fast.config_checks import check_config
from iwpo_fast.limits import groups_of, hints_of

CONFIGS: dict[str, type[TrainConfig]] = {"train": TrainConfig, "run": RunConfig}
SETTINGS = {command: sorted(leaves(config)) for command, config in CONFIGS.items()}
PAIRS = [{"prompt": f"question {i}", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(12)]
RECIPE: dict[str, Any] = {
    "data": {"max_length": 48, "eval_fraction": 0.25},
    "model": {"path": "tiny", "tiny": {"vocab_size": 300, "hidden_size": 32, "layers": 1, "heads": 2}},
    "optim": {"lr": 1e-3, "max_steps": 2},
    "device": "cpu",
}


class Said(NamedTuple):
    """How a command ended, and its lines on standard error."""

    code: int
    lines: list[str]


def command(*words: str) -> Said:
    """Run a command here; an exception that it lets out is one of this call."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), in_time():
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Said(code, [line for line in err.getvalue().splitlines() if line.strip()])


def check_ending(said: Said) -> None:
    """Well, or with one sentence and nothing on which a terminal acts."""
    if said.code == 0:
        return
    assert said.code == 2, said
    errors = [line for line in said.lines if line.startswith("iwpo: error: ")]
    assert len(errors) == 1 and said.lines[-1] == errors[0], said
    assert errors[0].isprintable() and ": " in errors[0][len("iwpo: error: ") :] and errors[0].endswith("."), errors[0]
    refused_with(errors[0])


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder with some pairs, in which the body runs."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        Path(name, "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


@contextlib.contextmanager
def only_checked() -> Iterator[None]:
    """Commands check their configuration, and do nothing else."""
    before = dict(RUN)

    def checks(config: type[TrainConfig]) -> Callable[[object], None]:
        return lambda settings: check_config(dataclass_from(config, settings))

    RUN.update({name: checks(config) for name, config in CONFIGS.items()})
    try:
        yield
    finally:
        RUN.update(before)


NEEDED: dict[Any, dict[str, Any]] = {
    DataConfig: {"path": "pairs.jsonl"},
    DataShapeConfig: {"prompts": 9, "prompt_tokens": 9, "response_tokens": 9},
}
"""Settings without a default, of groups that are made."""


def with_setting(config: Any, name: str, value: Any) -> None:
    """Set it, in groups that are made where they are null."""
    *parents, key = name.split(".")
    for parent in parents:
        if getattr(config, parent, None) is None or not is_dataclass(getattr(config, parent)):
            group = groups_of(hints_of(type(config))[parent])[0]
            setattr(config, parent, group(**NEEDED.get(group, {})))
        config = getattr(config, parent)
    setattr(config, key, value)


@tries(short=15, long=600)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(range(len(VALUES)))), min_size=1, max_size=2),
)
def test_a_setting_from_python_can_be_or_is_refused(name: str, changes: list[tuple[int, int]]) -> None:
    with folder():
        config = CONFIGS[name](DataConfig("pairs.jsonl", cache_dir="cache"))
        changed = [(SETTINGS[name][place % len(SETTINGS[name])], VALUES[value]) for place, value in changes]
        for setting, value in changed:
            with_setting(config, setting, value)
        before = sorted(Path().iterdir())
        try:
            with in_time():
                check_config(config)
        except Exception as error:
            assert is_sentence(error), f"{changed}: {type(error).__name__}: {error}"
            assert str(error).isprintable(), repr(error)
            assert any(setting.split(".")[-1] in str(error) for setting, _ in changed), f"{changed}: {error}"
        assert sorted(Path().iterdir()) == before


@tries(short=12, long=400)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(TEXTS)), min_size=1, max_size=2),
    st.sampled_from(("behind =", "a word of its own", "in a recipe")),
)
def test_a_setting_in_text_can_be_or_is_refused(name: str, changes: list[tuple[int, str]], how: str) -> None:
    with folder(), only_checked():
        words = ["--data.path=pairs.jsonl", "--data.cache_dir=cache"]
        for place, text in changes:
            setting = SETTINGS[name][place % len(SETTINGS[name])]
            if how == "in a recipe":
                *parents, key = setting.split(".")
                lines = [f"{'  ' * depth}{parent}:" for depth, parent in enumerate(parents)]
                written = "\n".join([*lines, f"{'  ' * len(parents)}{key}: {text}"]) + "\n"
                Path("recipe.yaml").write_bytes(written.encode("utf-8", "surrogatepass"))
                words = ["--config=recipe.yaml", *words]
            else:
                words += [f"--{setting}={text}"] if how == "behind =" else [f"--{setting}", text]
        check_ending(command(name, *words))


@tries(short=9, long=200)
@given(st.integers(0, 2**31))
def test_a_damaged_recipe_can_be_or_is_refused(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(yaml.safe_dump(RECIPE, default_flow_style=chance.random() < 0.3).encode())
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data))
        piece = chance.choice(TEXTS).encode("utf-8", "surrogatepass")
        removed = chance.choice((0, chance.randint(1, 9)))
        data[place : place + removed] = chance.choice((b"", piece, piece, b"\xff"))
    with folder(), only_checked():
        Path("recipe.yaml").write_bytes(data)
        words = ["--config=recipe.yaml", "--data.path=pairs.jsonl", "--data.cache_dir=cache"]
        check_ending(command("train", *words))
        assert Path("recipe.yaml").read_bytes() == bytes(data)


@tries(short=4, long=60)
@given(st.integers(0, 10**6), st.sampled_from(TEXTS))
def test_a_dry_run_goes_well_or_is_refused(place: int, text: str) -> None:
    with folder():
        Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        setting = SETTINGS["train"][place % len(SETTINGS["train"])]
        words = ["--config=recipe.yaml", "--data.path=pairs.jsonl", "--data.cache_dir=cache", f"--{setting}={text}"]
        check_ending(command("train", *words, "--dry_run=true"))
