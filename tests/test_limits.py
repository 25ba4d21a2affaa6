"""Which values a field takes, in configurations and from Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from iwpo_fast.command_config import DemoConfig
from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.demo.run import run_demo
from iwpo_fast.limits import BELOW_ONE, FRACTION, POSITIVE, Limits, check_limits, hints_of, is_allowed
from iwpo_fast.pipeline import run
from iwpo_fast.training import train

GOOD = RunConfig(data=DataConfig(path="pairs.jsonl"))


@dataclass
class Inner:
    share: Annotated[float, FRACTION] = 0.5


@dataclass
class Outer:
    count: Annotated[int, POSITIVE] | None = 1
    rate: float | Literal["auto"] = "auto"
    betas: tuple[Annotated[float, BELOW_ONE], Annotated[float, BELOW_ONE]] = (0.9, 0.95)
    names: list[Literal["a", "b"]] = field(default_factory=list)
    flag: bool = False
    text: str | list[str] = "x"
    map: dict[str, str] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    perhaps: Inner | None = None


@pytest.mark.parametrize(
    "change",
    [
        {"count": None},
        {"count": np.int64(3)},
        {"rate": 2},
        {"rate": np.float32(0.5)},
        {"betas": [0, 0.5]},
        {"names": ["a", "b"]},
        {"text": ["x", "y"]},
        {"inner": Inner(1)},
        {"perhaps": Inner(0.0)},
    ],
)
def test_what_fits_the_type_and_its_limits_passes(change: dict[str, Any]) -> None:
    check_limits(replace(Outer(), **change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"count": 0}, "count is 0: it must be positive or null."),
        ({"count": 1.5}, "count is 1.5: it must be a whole number or null."),
        ({"count": True}, "count is true: it must be a whole number or null."),
        ({"count": "3"}, "count is 3: it must be a whole number or null."),
        ({"count": 10**400}, f"count is 1{'0' * 79}…: it must be a number below 2**63."),
        ({"rate": math.nan}, "rate is nan: it must be finite or auto."),
        ({"rate": math.inf}, "rate is inf: it must be finite or auto."),
        ({"rate": None}, "rate is null: it must be a finite number or auto."),
        ({"rate": 10**400}, f"rate is 1{'0' * 79}…: it must be a number below 2**63."),
        ({"betas": (0.9, 1.0)}, "betas is (0.9, 1.0): it must be two numbers in [0, 1)."),
        ({"betas": (0.9,)}, "betas is (0.9,): it must be a list of two numbers."),
        ({"names": ["c"]}, "names is ['c']: it must be a list of a, b."),
        ({"flag": 1}, "flag is 1: it must be true or false."),
        ({"text": 5}, "text is 5: it must be text or a list."),
        ({"map": "x"}, "map is x: it must be a mapping from names to text."),
        ({"map": {"a": 1}}, "map is {'a': 1}: it must be a mapping from names to text."),
        ({"inner": None}, "inner is a group of settings: give them, or leave it out for the defaults."),
        ({"inner": Inner(1.5)}, "inner.share is 1.5: it must be in [0, 1]."),
        ({"perhaps": "x"}, "perhaps is x: it must be a group of settings or null."),
        ({"perhaps": Inner(-0.5)}, "perhaps.share is -0.5: it must be in [0, 1]."),
    ],
)
def test_what_does_not_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        check_limits(replace(Outer(), **change))
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "words"),
    [
        (POSITIVE, [1e-300, 1e300], [0, -1, math.inf, math.nan], "positive and finite"),
        (Limits(0), [0, 5], [-1e-9, math.inf], "0 or more and finite"),
        (Limits(1, low_open=True), [1.1], [1], "above 1 and finite"),
        (Limits(2, infinite=True), [2, math.inf], [1.9, -math.inf, math.nan], "at least 2"),
        (Limits(0, 0.5, low_open=True), [0.1, 0.5], [0, 0.6], "in (0, 0.5]"),
        (Limits(), [0, -5], [math.inf, math.nan], "finite"),
    ],
)
def test_limits_hold_their_ends_or_not(limits: Limits, inside: list, outside: list, words: str) -> None:
    assert all(value in limits for value in inside)
    assert not any(value in limits for value in outside)
    assert str(limits) == words


def groups(config: object, name: str = "") -> dict[str, object]:
    """A configuration and the groups in it, by name."""
    found = {name: config}
    for item in fields(config):  # type: ignore[arg-type]
        if is_dataclass(value := getattr(config, item.name)):
            found |= groups(value, f"{name}.{item.name}".lstrip("."))
    return found


EVERYTHING = replace(GOOD, model=ModelConfig(lora=LoraConfig()))
SETTINGS = [(name, key) for name, group in groups(EVERYTHING).items() for key in hints_of(type(group))]


@pytest.mark.parametrize(("name", "key"), SETTINGS, ids=[f"{name}.{key}".lstrip(".") for name, key in SETTINGS])
def test_no_setting_takes_an_object_of_python_or_nan(name: str, key: str) -> None:
    group = groups(EVERYTHING)[name]
    for wrong in (object(), math.nan):
        if not is_allowed(hints_of(type(group))[key], wrong):
            with pytest.raises(ValueError, match=rf"^{key} is "):
                check_limits(replace(group, **{key: wrong}))  # type: ignore[type-var]
        else:
            raise AssertionError(f"{name}.{key} takes {wrong}")


@pytest.mark.parametrize(("value", "wanted"), [("1e-5", "a finite number"), (math.nan, "positive and finite")])
def test_calls_from_python_are_refused_in_the_same_sentence(value: Any, wanted: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(GOOD, optim=OptimConfig(lr=value))
    shared = {item.name: getattr(config, item.name) for item in fields(TrainConfig)}
    for call in (lambda: train(TrainConfig(**shared)), lambda: run(config), lambda: check_config(config)):
        with pytest.raises(ValueError, match=rf"^optim\.lr is {value}: it must be {wanted}\.$"):
            call()
    with pytest.raises(ValueError, match=r"^seed is x: it must be a whole number\.$"):
        run_demo(DemoConfig(seed="x"))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_mapping_in_a_groups_place_and_a_misspelt_field_are_named() -> None:
    with pytest.raises(ValueError, match=r"^optim is a mapping: give OptimConfig\("):
        check_config(replace(GOOD, optim={"lr": 1e-3}))  # type: ignore[arg-type]
    misspelt = OptimConfig()
    misspelt.lrr = 3  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"^unknown setting optim\.lrr: OptimConfig has name, lr, "):
        check_config(replace(GOOD, optim=misspelt))
