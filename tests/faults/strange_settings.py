"""Settings of every command, and values that none of them may have, or that few may."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.config import TinyConfig
from iwpo_fast.limits import groups_of, hints_of

DEEP: Any = "x"
for _ in range(50):
    DEEP = [DEEP]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**63), 10**400, -(10**400), 10**5000, 0.5, 1.5, -0.5),
    *(math.nan, math.inf, -math.inf, 1e308, 5e-324, np.float32(0.5), np.int64(3), np.nan, np.array([1.0]), 1j),
    *(
        "",
        " ",
        "x",
        "auto",
        "null",
        "1",
        "all",
        "null\0",
        "\x1b[2J",
        "half\ud800",
        "a\nb",
        "x" * 5000,
        "~nobody-here/x",
    ),
    *([], ["a"], [None], [1, "a"], ["\ud800"], ["tensorboard"], [[]], (0.5, 0.5), (1,), (0.5, None), (math.nan, 0.5)),
    *({}, {"a": 1}, {"a": None}, {1: 2}, {"chosen": "b"}, {"sigmoid": 1.0}, {"sigmoid": math.nan}, {"\ud800": "x"}),
    *(b"x", {1}, object(), Path("x"), date(2024, 1, 1), TinyConfig(), TinyConfig, DEEP, [{"path": "x"}]),
)

TEXTS: tuple[str, ...] = (
    *("", " ", "null", "~", "true", "no", "0", "1", "-1", "0.5", "1e999", "-.inf", ".nan", "9" * 400, "9" * 5000),
    *("0x10", "1_000", "1:30", "2024-99-99", "2024-01-01", "auto", "all", "x", "x" * 5000, "~nobody-here/x", "@x"),
    *("[", "{", "{a: b", "[1, [2]]", "{a: 1}", "{a: 1, a: 2}", "{1: 2}", "{[1]: 2}", "{? {a: 1} : 2}", "[[", "]"),
    *("&a [*a]", "*a", "!!python/object/apply:os.system [true]", "!!binary x", "!!int x", "!!float ''", "<<: x", "- a"),
    *("\x1b[2J", "half\ud800", '"\\ud800"', "a\0b", "\ufeff", "a\tb", "a\nb", "|", ">", "%", "`", "'", '"', "#", "--"),
    *("[" * 2000, "{a: " * 400, "[0.9, 0.9]", "[0.9, null]", "sigmoid", "{sigmoid: 1.0}", "{sigmoid: null}", "[dpo]"),
)


def leaves(config: type, before: str = "") -> Iterator[str]:
    """Full names of all settings of a configuration, groups among them."""
    for name, hint in hints_of(config).items():
        yield f"{before}{name}"
        for group in groups_of(hint):
            yield from leaves(group, f"{before}{name}.")
