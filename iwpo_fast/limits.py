"""Which values a setting may have: limits beside its field, as in `Annotated[float, FRACTION]`, and their one check."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from itertools import repeat
from numbers import Integral, Real
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from iwpo_fast.terminal import escaped, is_text

SHOWN = 80  # characters of a refused value
MOST_BITS = 10_000  # of a whole number that is written out

KINDS = {
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    tuple: "a list of two numbers",
    list: "a list",
    type(None): "null",
}


@dataclass(frozen=True)
class Limits:
    """Numbers from `low` to `high`.

    Attributes:
        low_open, high_open: this end is not among them.
        infinite: infinity is among them; otherwise it is not, even if there is no upper end.
        words: what they are called, if not by their ends.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    infinite: bool = False
    words: str = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and (self.infinite or math.isfinite(value))

    def __str__(self) -> str:
        """What comes after "it must be"."""
        if self.words or self.high < math.inf:
            ends = f"{'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"
            return self.words or f"in {ends}"
        parts = [] if self.low == -math.inf else [self._lower_end()]
        return " and ".join(parts if self.infinite else [*parts, "finite"])

    def _lower_end(self) -> str:
        if self.low == 0:
            return "positive" if self.low_open else "0 or more"
        return f"{'above' if self.low_open else 'at least'} {self.low:g}"


FINITE = Limits()
POSITIVE = Limits(0, low_open=True)
POSITIVE_OR_INFINITE = Limits(0, low_open=True, infinite=True)
NOT_NEGATIVE = Limits(0)
FRACTION = Limits(0, 1)
SHARE = Limits(0, 1, low_open=True)
BELOW_ONE = Limits(0, 1, high_open=True)
FLIP_RATE = Limits(0, 0.5, high_open=True)
SEED = Limits(0, 2**32, high_open=True, words="0 or more and less than 2**32")
"""Seeds that PyTorch, NumPy and scikit-learn all take."""


def check_limits(config: Any, name: str = "") -> None:
    """Check every field of a configuration, and of the groups inside it, for its type and its limits.

    Args:
        config: a dataclass.
        name: what it is called in sentences, such as `optim`; a whole configuration has no name.

    Raises:
        ValueError: one sentence on the first value that cannot be.
    """
    hints, settings = hints_of(type(config)), vars(config)
    for key, value in settings.items():
        full = f"{name}.{key}" if name else key
        if key not in hints:
            raise ValueError(f"unknown setting {full}: {type(config).__name__} has {', '.join(hints)}.")
        if isinstance(value, dict) and (groups := groups_of(hints[key])):
            raise ValueError(f"{full} is a mapping: give {groups[0].__name__}(…), as from a recipe or a command.")
    check_settings(hints, settings, name)


def check_settings(hints: Mapping[str, Any], settings: Mapping[str, Any], group: str = "") -> None:
    """Check settings by the types `hints`; a group inside them is a mapping or a dataclass.

    Raises:
        KeyError: with the full name of a setting that does not exist.
        ValueError: one sentence on the first value that cannot be.
    """
    for key, value in settings.items():
        name = f"{group}.{key}" if group else str(key)
        if not _can_stand(value):
            raise ValueError(f"{escaped(name)} is {_shown(value)}: it must be text without null or half characters.")
        inner = groups_of(hints.get(key))
        if inner and isinstance(value, dict):
            check_settings(hints_of(inner[0]), value, name)
        elif inner and isinstance(value, inner[0]):
            check_limits(value, name)
        elif (listed := _group_of_list(hints.get(key))) and isinstance(value, list):
            _check_groups(listed, value, name)
        elif key not in hints or not is_allowed(hints[key], value):
            _refuse(hints, name, value)


def _check_groups(group: type, values: list[Any], name: str) -> None:
    """Check each group of settings in a list of them."""
    for place, value in enumerate(values):
        if isinstance(value, group):
            check_limits(value, f"{name}[{place}]")
        elif isinstance(value, dict):
            check_settings(hints_of(group), value, f"{name}[{place}]")
        else:
            raise ValueError(f"{name} is {_shown(values)}: it must be a list of groups of settings.")


def hints_of(config: type) -> dict[str, Any]:
    """Types of the fields of a configuration, with their limits."""
    return get_type_hints(config, include_extras=True)


def hint_at(hints: Mapping[str, Any], name: str) -> Any:
    """Type of the setting with this full name, such as `optim.lr`; None where there is none."""
    *parents, key = name.split(".")
    for parent in parents:
        inner = groups_of(hints.get(parent))
        hints = hints_of(inner[0]) if inner else {}
    return hints.get(key)


def names_of(hints: Mapping[str, Any], group: str = "") -> Iterator[str]:
    """Full names of all settings, those in groups too."""
    for key, hint in hints.items():
        inner = groups_of(hint)
        if inner:
            yield from names_of(hints_of(inner[0]), f"{group}{key}.")
        else:
            yield f"{group}{key}"


def groups_of(hint: Any) -> list[type]:
    """The configurations among the types of a setting."""
    return [member for member in _members_of(hint) if isinstance(member, type) and is_dataclass(member)]


def _group_of_list(hint: Any) -> type | None:
    """The configuration that a setting is a list of."""
    members = [*get_args(hint), None] if get_origin(hint) is list else [None]
    return members[0] if isinstance(members[0], type) and is_dataclass(members[0]) else None


def is_allowed(hint: Any, value: Any) -> bool:
    """Whether the value is of the type `hint` and inside its limits."""
    return any(_is_of_kind(member, value) and _is_inside(member, value) for member in _members_of(hint))


def _refuse(hints: Mapping[str, Any], name: str, value: Any) -> NoReturn:
    group, _, key = name.rpartition(".")
    hint, elsewhere = hints.get(key), hints_of(hints["experimental"]) if "experimental" in hints else {}
    if key in elsewhere and (key not in hints or (value is not None and is_allowed(elsewhere[key], value))):
        what = f"{name} {value}" if key in hints else name
        raise ValueError(f"{what} is experimental now: set {group}.experimental.{key} instead.")
    if key not in hints:
        raise KeyError(name)
    if is_dataclass(hint):
        raise ValueError(f"{name} is a group of settings: give them, or leave it out for the defaults.")
    raise ValueError(f"{name} is {_shown(value)}: it must be {_wanted(hint, value)}.")


def _can_stand(value: Any) -> bool:
    """Whether all text in a value can be a name of a file and be written to one."""
    if isinstance(value, str):
        return is_text(value) and "\0" not in value
    if isinstance(value, dict):
        return all(_can_stand(key) and _can_stand(one) for key, one in value.items())
    return all(map(_can_stand, value)) if isinstance(value, list | tuple) else True


def _wanted(hint: Any, value: Any) -> str:
    """What a value must be: inside these limits if its kind is right, or else of this kind."""
    if _is_huge(value):
        return "a number below 2**63"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    limits = any(_is_of_kind(member, value) for member in _members_of(hint))
    parts = [_words(member, limits=limits) for member in _members_of(hint)]
    return (", or " if any(" or " in part or " and " in part for part in parts) else " or ").join(parts)


def _members_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type that is none."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_of_kind(member: Any, value: Any) -> bool:
    """Whatever its limits are. Truth values are no numbers."""
    origin, arguments = get_origin(member), get_args(member)
    if origin is Annotated:
        return _is_of_kind(arguments[0], value)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is dict:
        return isinstance(value, dict) and all(map(_is_item, repeat(arguments[1]), value.items()))
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and _are_of_kinds(origin, arguments, value)
    if member in (int, float):
        number = Integral if member is int else Real
        return isinstance(value, number) and not isinstance(value, bool) and not _is_huge(value)
    return isinstance(value, member)


def _is_item(kinds: Any, item: tuple[Any, Any]) -> bool:
    """Whether a mapping may hold this name and value."""
    return isinstance(item[0], str) and any(_is_of_kind(kind, item[1]) for kind in _members_of(kinds))


def _are_of_kinds(origin: type, arguments: tuple[Any, ...], values: Sequence[Any]) -> bool:
    if origin is list:
        return all(is_allowed(arguments[0], value) for value in values)
    return len(values) == len(arguments) and all(map(_is_of_kind, arguments, values))


def _is_inside(member: Any, value: Any) -> bool:
    if get_origin(member) is tuple:
        return all(map(_is_inside, get_args(member), value))
    limits = _limits_of(member)
    return limits is None or value in limits


def _limits_of(member: Any) -> Limits | None:
    if get_origin(member) is Annotated:
        return get_args(member)[1]
    return FINITE if member is float else None


def _is_huge(value: Any) -> bool:
    """A whole number that PyTorch and NumPy cannot hold, nor perhaps a float."""
    return isinstance(value, Integral) and abs(int(value)) >= 2**63


def _words(member: Any, *, limits: bool) -> str:
    """What a value of this type is called: by its limits, or by its kind."""
    origin, arguments = get_origin(member), get_args(member)
    if is_dataclass(member):
        return "a group of settings"
    if origin is Literal:
        return " or ".join(arguments)
    if origin is tuple and limits:
        return f"two numbers {_words(arguments[0], limits=True)}"
    if origin is list and get_origin(arguments[0]) is Literal:
        return f"a list of {', '.join(get_args(arguments[0]))}"
    if origin is list and len(_members_of(arguments[0])) > 1:
        return f"a list of {' or '.join(_words_of_many(one) for one in _members_of(arguments[0]))}"
    if origin is dict:
        kinds = [KINDS[get_origin(kind) or kind] for kind in _members_of(arguments[1])]
        return f"a mapping from names to {' or '.join(kinds)}"
    if limits and (inside := _limits_of(member)) is not None:
        # Whole numbers are finite anyway.
        return str(inside).removesuffix(" and finite") if arguments and arguments[0] is int else str(inside)
    return KINDS[arguments[0] if origin is Annotated else origin or member]


def _words_of_many(member: Any) -> str:
    """What values of this type are called in a list."""
    words = _words(member, limits=True)
    return f"numbers {words}" if get_origin(member) is Annotated else words


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, Integral) and int(value).bit_length() > MOST_BITS:
        return f"a whole number of {int(value).bit_length():,} bits"
    text = escaped(str(value)) or "''"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
