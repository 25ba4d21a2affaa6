"""Tokenising by several processes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from iwpo_fast.cli import main
from iwpo_fast.config import DataConfig
from iwpo_fast.data import cache_folder, processes, read_rows, tokenise
from iwpo_fast.data.processes import in_order, processes_for
from iwpo_fast.limits import check_limits

encode = importlib.import_module("iwpo_fast.data.encode")

TALKS = [
    {
        "prompt": [{"role": "user", "content": f"the colour {i}"}],
        "chosen": [{"role": "assistant", "content": f"blue {i} "}, {"role": "user", "content": "sky"}] * (1 + i % 2),
        "rejected": [{"role": "assistant", "content": "green"}],
        "tools": [{"name": f"tool{i // 5}"}],
    }
    for i in range(40)
]
PAIRS = [
    {"prompt": f"what is {i} ", "chosen": f"blue {i}", "rejected": "green", "candidates": [f"sky {i}", "red", "grass"]}
    for i in range(40)
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    """Forked processes see it too."""
    monkeypatch.setattr(encode, "ROWS_AT_ONCE", 7)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [PAIRS, TALKS], ids=["text", "conversations"])
def test_any_number_of_processes_writes_the_same_bytes(rows, write: Callable, tokenizer, tmp_path) -> None:
    def written(count: int) -> dict[str, bytes]:
        settings = {"train_on": "all", "cache_dir": str(tmp_path / str(count))}
        config: DataConfig = write(rows, processes=count, **settings)
        tokenise(read_rows(config)[0], tokenizer, config)
        return {path.name: path.read_bytes() for path in (cache_folder(config) / "tokens").iterdir()}

    alone = written(1)
    assert len(alone) == (2 if rows is PAIRS else 1)
    assert written(2) == alone
    assert written(5) == alone


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_first_row_that_is_wrong_is_named_by_any_number_of_processes(count, write: Callable, tokenizer) -> None:
    rows = [
        row | {"prompt": [{"role": "judge", "content": "x"}]} if i in (11, 30, 39) else row
        for i, row in enumerate(TALKS)
    ]
    config = write(rows, processes=count, on_text_left_out="say", train_on="all")
    with pytest.raises(ValueError, match=r"row 12 does not fit the chat template \(unknown role\)"):
        tokenise(read_rows(config)[0], tokenizer, config)


@pytest.mark.slow
def test_results_come_in_the_order_of_their_keys_from_other_processes() -> None:
    found = list(in_order(lambda key: (key, os.getpid()), range(30), 3))
    assert [key for key, _ in found] == list(range(30))
    assert os.getpid() not in {pid for _, pid in found}
    assert list(in_order(lambda key: (key, os.getpid()), range(3), 1)) == [(key, os.getpid()) for key in range(3)]


@pytest.mark.slow
def test_processes_are_only_so_far_ahead(tmp_path) -> None:
    results = in_order(lambda key: (tmp_path / str(key)).touch(), range(100), 2)
    next(results)
    results.close()
    assert len(list(tmp_path.iterdir())) <= 2 * processes.WAITING + 1


@pytest.mark.slow
def test_a_killed_process_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"One of 2 processes that tokenise was killed.*set data\.processes to fewer"):
        list(in_order(lambda _: os._exit(9), range(3), 2))


def test_auto_starts_processes_for_many_rows_alone(monkeypatch) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 4)
    assert [processes_for(rows, "auto") for rows in (0, 9_999, 25_000, 10**7)] == [1, 1, 2, 4]
    assert processes_for(1, 3) == 3


@pytest.mark.slow
def test_the_command_line_sets_processes(write: Callable, tokenizer, tmp_path, capsys) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    path = write(PAIRS).path
    command = ["preview", "--data.path", str(path), "--model.path", str(tmp_path / "model")]
    assert main([*command, "--data.processes", "2"]) == 0
    by_two = capsys.readouterr().out
    assert main([*command, "--data.processes", "1"]) == 0
    assert capsys.readouterr().out == by_two
    assert main([*command, "--data.processes", "0"]) == 2
    assert "data.processes is 0" in capsys.readouterr().err


def test_no_processes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.processes is 0: it must be positive or auto\."):
        check_limits(DataConfig(path="x", processes=0), "data")


def test_the_folder_of_the_cache_does_not_depend_on_processes(write: Callable, tokenizer) -> None:
    paths: list[Path] = []
    for count in (1, 2):
        config = write(PAIRS, processes=count)
        tokenise(read_rows(config)[0], tokenizer, config)
        paths += (cache_folder(config) / "tokens").iterdir()
    assert len(set(paths)) == 2
