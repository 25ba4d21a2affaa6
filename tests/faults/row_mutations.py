"""Rows of every form that docs/data.md documents, spoilt in one of them, and files of them in every kind, damaged."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import math
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from documented_forms import FORMS, Form
from documented_schemas import SCHEMAS
from hypothesis import strategies as st

from iwpo_fast.data.columns import COLUMNS, PUBLIC

Row = dict[str, Any]

READ: dict[str, Form] = {form.title: form for form in (*FORMS, *SCHEMAS) if not isinstance(form.texts, str)}


def _deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 1.5, -2.5, 1e30, math.nan, math.inf, -math.inf, 10**25, 10**400, -(10**400)),
    *("", " ", "\n", "Is it?", "Yes.", "x" * 5000, "0", "nan", "1e999", "9" * 500, "N/A"),
    *("\x00", "\x1b[2J\x1b]0;title\x07", "\u202egnp.exe", "\u2028", "\x85", "\ufeffYes.", "\ud800", "No.\udfff"),
    *("[]", "{}", "[[", '["a"]', '[{"role": "user"}]', "[{'role': 'user', 'content': 'x'}]", '{"role": 1}'),
    *(
        "\n\nHuman:",
        "\n\nHuman: a\n\nAssistant:",
        "\n\nAssistant: \n\nAssistant:",
        '"\\ud800 role"',
        "[" * 3000 + "role",
        "[{'role': 'user', 'content': [{1: 2, 'text': 'x'}], 3: 4}]",
        "[" * 3000,
    ),
    *([], {}, [None], [[]], [{}], [1, "a"], ["a", "b"], {"role": "user", "content": "x"}),
    *([{"role": "user"}], [{"role": None, "content": 1}], [{"role": "user", "content": ["x"]}]),
    *([{"role": "wizard", "content": "x"}], [{"role": "user", "content": [{"type": "image"}]}]),
    *([{"role": "assistant", "content": None, "tool_calls": "x"}], [{"role": "assistant", "tool_calls": [1]}]),
    *([{"role": "us\ud800er", "content": "x"}], [{"role": "user", "content": "x", "na\udc00me": "y"}]),
    *(
        {"from": "human", "value": "x"},
        [{"from": [], "value": "x"}],
        [{"from": "gpt"}],
        [{"from": "alien", "value": 1}],
    ),
    *([{"from": "function_call", "value": "{"}], [{"from": "function_call", "value": "1"}], {"from": {}, "value": "x"}),
    *([{"response": 1}], [{"response": "x", "annotations": [1]}], [{"response": "x", "annotations": {"a": 1}}]),
    *([{"answer": "a", "rank": "first"}], [{"answer": "a", "rank": None}], [{"answer": [], "rank": 1}]),
    *([["a"], ["b", "c"]], [["a", 1]], [[["a"]]], {"chat_template": "x"}, {"tools": 1}, {"messages": []}),
    *({"tokenize": True}, {"documents": []}, {"language": "\ud800"}, {1: 2}, _deep(60), {"a": _deep(40)}),
    *([0.5, 1.5], [0.5, "x"], [math.nan], [[0.5]], "[0.5, 1.5]", ["Yes."] * 40),
    *({"1": 2, "3": 1}, {"1": -1}, {"2": 1.5}, {"good": 1}, {"nan": 1}, {"9" * 500: 1}, {"1": 10**400}, '{"1": 2}'),
    *(b"bytes", datetime(2024, 1, 1), Decimal("1.5")),
)
"""What may stand in the place of anything."""
STRANGE_TEXTS = tuple(one for one in STRANGE if isinstance(one, str))

NAMES = (*COLUMNS, *PUBLIC, "image", "", " ", "\x1b[31m", "role", "content", "from", "value", "half\ud800", "a+b")
"""Of columns that may come in addition."""

SETTINGS: dict[str, tuple[Any, ...]] = {
    "as_chat": (True, False, "auto"),
    "on_prefix_mismatch": ("drop", "error", "split"),
    "pairs_from_candidates": ("all", "pareto"),
    "win_rate_temperature": (2.0,),
    "eval_fraction": (0.0, 0.5),
    "limit": (1, 2, 100),
    "max_length": (8, 64),
    "truncation": ("drop", "truncate_completion", "error"),
    "train_on": ("all",),
    "on_text_left_out": ("say",),
}


class Spoilt(NamedTuple):
    """Rows of one form.

    Attributes:
        good: as documented.
        bad: the same with one of them spoilt; equal to `good` where none is.
        where: which, from 0; None where none is.
        settings: of `data`.
        votes: scores are read as votes.
    """

    good: list[Row]
    bad: list[Row]
    where: int | None
    settings: dict[str, Any]
    votes: bool


@st.composite
def spoilt_rows(draw: st.DrawFn) -> Spoilt:
    form = READ[draw(st.sampled_from(sorted(READ)))]
    good = [copy.deepcopy(form.row) for _ in range(draw(st.integers(1, 4)))]
    settings = dict(form.settings)
    for name in draw(st.lists(st.sampled_from(sorted(SETTINGS)), max_size=2, unique=True)):
        settings[name] = draw(st.sampled_from(SETTINGS[name]))
    bad = copy.deepcopy(good)
    changes = draw(st.sampled_from((0, 1, 1, 1, 2, 3)))
    where = draw(st.integers(0, len(bad) - 1)) if changes else None
    for _ in range(changes):
        assert where is not None
        bad[where] = _changed(draw, bad[where])
    return Spoilt(good, bad, where, settings, form.votes is not None or draw(st.booleans()))


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """The value with something in it replaced, removed or added."""
    if isinstance(value, dict):
        how = draw(st.sampled_from(("inside", "inside", "inside", "without", "with")))
        if how == "with" or not value:
            return value | {draw(st.sampled_from(NAMES)): _strange(draw)}
        name = draw(st.sampled_from(sorted(value, key=str)))
        if how == "without":
            return {key: one for key, one in value.items() if key != name}
        return value | {name: _changed(draw, value[name])}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        how = draw(st.sampled_from(("inside", "without", "twice")))
        middle = {"inside": [_changed(draw, value[place])], "without": [], "twice": [value[place]] * 2}[how]
        return [*value[:place], *middle, *value[place + 1 :]]
    if isinstance(value, str) and value and draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(value)))
        return value[:place] + draw(st.sampled_from(STRANGE_TEXTS)) + value[place:]
    return _strange(draw)


def _strange(draw: st.DrawFn) -> Any:
    return copy.deepcopy(draw(st.sampled_from(STRANGE)))


def _jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()


def _csv(rows: list[Row], delimiter: str = ",") -> bytes:
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        writer.writerow({str(name): _cell(value) for name, value in row.items()})
    return text.getvalue().encode("utf-8", "surrogatepass")


def _cell(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value


def _parquet(rows: list[Row]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def _arrow(rows: list[Row]) -> bytes:
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


KINDS: dict[str, Callable[[list[Row]], bytes]] = {
    ".jsonl": _jsonl,
    ".json": lambda rows: json.dumps(rows, default=str).encode(),
    ".csv": _csv,
    ".tsv": lambda rows: _csv(rows, "\t"),
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".jsonl.gz": lambda rows: gzip.compress(_jsonl(rows), mtime=0),
    ".csv.zst": lambda rows: pa.compress(_csv(rows), codec="zstd", asbytes=True),
}
"""By the end of its name, what writes a file."""

DAMAGES: dict[str, Callable[[bytes, int, int], bytes]] = {
    "flipped bit": lambda data, i, j: data[:i] + bytes([data[i] ^ (1 << j % 8)]) + data[i + 1 :],
    "cut": lambda data, i, j: data[:i],
    "zeros": lambda data, i, j: data[:i] + bytes(min(16, len(data) - i)) + data[i + 16 :],
    "bytes that are no text": lambda data, i, j: data[:i] + b"\xff\xfe\x00\x80" + data[i:],
    "a part twice": lambda data, i, j: data[:i] + data[max(0, i - j % 64) :],
    "a part less": lambda data, i, j: data[:i] + data[i + 1 + j % 64 :],
    "a byte order mark": lambda data, i, j: b"\xef\xbb\xbf" + data,
    "line ends of Windows": lambda data, i, j: data.replace(b"\n", b"\r\n"),
    "another kind": lambda data, i, j: b"PK\x03\x04" + data,
}


def write(folder: Path, kind: str, rows: list[Row], name: str = "rows") -> Path | None:
    """A file of the rows; None where the kind cannot hold them."""
    path = folder / f"{name}{kind}"
    try:
        path.write_bytes(KINDS[kind](rows))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    return path
