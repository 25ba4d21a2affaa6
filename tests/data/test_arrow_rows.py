"""Rows that lie in mapped Arrow files."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iwpo_fast.config import DataConfig, MixedConfig
from iwpo_fast.data import arrow_rows, read_rows, scratch
from iwpo_fast.data.arrow_rows import AT_ONCE, RareStore, Stored, stored, taken

TALK = [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "", "tool_calls": [{"x": [1, 2.5, None]}]}]
VALUES: list[Any] = [
    "",
    "text",
    "hé 😀",
    "half \ud800 a pair",
    TALK,
    [],
    {},
    {"score": [0.1, float("inf")]},
    None,
    "[1]",
]


def many(count: int) -> list[Any]:
    return [f"{i} {value}" if isinstance(value, str) else value for i in range(count) for value in VALUES]


def test_values_come_back_as_they_went_in() -> None:
    values = many(2 * AT_ONCE)
    kept = stored(iter(values))
    assert len(kept) == len(values)
    assert list(kept) == values
    assert [kept[i] for i in range(len(values))] == values
    assert kept[-1] == values[-1]
    assert kept == values
    assert kept != values[:-1]
    assert kept != [*values[:-1], "other"]


@pytest.mark.parametrize("seed", [0, 1])
def test_chosen_values_are_those_of_a_list(seed) -> None:
    values = many(AT_ONCE)
    kept = stored(values)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(values), 700)) if seed else rng.integers(0, len(values), 700)
    again = rng.permutation(700)
    expected = [values[i] for i in chosen]
    assert list(taken(kept, chosen)) == expected
    assert list(taken(taken(kept, chosen), again)) == [expected[i] for i in again]
    assert list(kept[5:600:3]) == values[5:600:3]
    assert list(taken(kept, np.arange(300, 900))) == values[300:900]
    assert taken(values, chosen) == expected


def test_what_json_does_not_have_becomes_text() -> None:
    assert list(stored([{"path": Path("a")}, ("x", 1)])) == [{"path": "a"}, ["x", 1]]


def test_no_values_make_an_empty_sequence() -> None:
    assert list(stored([])) == []
    assert not stored([])


@pytest.mark.parametrize("first", [0, 3, AT_ONCE + 1])
def test_usual_values_are_written_only_where_there_are_others(first) -> None:
    store: RareStore[dict[str, int]] = RareStore({})
    values: list[dict[str, int]] = [{}] * first + [{"a": 1}, {}]
    for value in values:
        store.append(value)
    assert store.finish() == values
    assert RareStore({}).finish() is None


def lines(path: Path, count: int) -> DataConfig:
    rows = ({"prompt": f"{i} " + "why " * 100, "chosen": "yes " * 75, "rejected": f"{i}no " * 75} for i in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(path), eval_fraction=0.1)


def test_rows_of_data_are_stored_those_held_out_and_mixed_ones_too(tmp_path) -> None:
    alone = lines(tmp_path / "a.jsonl", 50)
    mixed = replace(alone, mix=[MixedConfig(path=alone.path, weight=2.0)], as_chat=True)
    for rows in (*read_rows(alone), *read_rows(mixed)):
        assert rows is not None
        for some in (rows, rows.take(np.array([0]))):
            assert all(isinstance(part, Stored) for part in (some.prompt, some.chosen, some.rejected))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text_of_rows(tmp_path) -> None:
    """A row of a kilobyte would take three as Python's objects; what is kept of it is numbers."""

    def peak(count: int) -> int:
        config = lines(tmp_path / "pairs.jsonl", count)
        read_rows(config)  # imports
        tracemalloc.start()
        rows = read_rows(config)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(rows[0]) > 0.8 * count
        return highest

    assert peak(6000) - peak(2000) < 4000 * 150


def test_files_of_rows_have_no_name_and_lie_where_tmpdir_says(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(scratch.tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    rows, _ = read_rows(lines(tmp_path / "pairs.jsonl", 20))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert str(tmp_path / "scratch") in Path("/proc/self/maps").read_text()
    assert rows.prompt[0].startswith("0 why")


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(arrow_rows, "scratch_file", partial(open, "/dev/full", "w+b"))
    with pytest.raises(ValueError, match=r"does not take the rows .*No space left on device.* set TMPDIR"):
        read_rows(lines(tmp_path / "pairs.jsonl", 2000))


def test_room_for_a_large_array_is_taken_before_it_is_written_to(monkeypatch) -> None:
    """Because a disk that is full when a map is written to kills the process."""
    monkeypatch.setattr(scratch, "LARGE", 1)
    with pytest.raises(ValueError, match="set TMPDIR"):
        scratch.empty_array(1 << 60, np.int8)
    values = scratch.empty_array(3, np.int32)
    values[:] = [1, 2, 3]
    assert values.sum() == 6
