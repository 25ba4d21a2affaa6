"""What `docs/data.md` says, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from iwpo_fast.cli import main

ROWS = [
    {"question": f"what is {i}?", "a": "one", "b": "two", "winner": ("left", "right", "none")[i % 3]} for i in range(6)
]
NAMED = ["--data.columns", "{first: a, second: b, preferred: winner}", "--data.columns.prompt", "question"]
MEANT = ["--data.preferred", "{first: left, second: right, tie: none}"]


def write(path: Path, rows) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.fixture
def dry_run(tmp_path, capsys) -> Callable[..., tuple[int, str]]:
    """Runs `iwpo train` on data without training; its exit code, and what it said."""

    def train(*arguments: str) -> tuple[int, str]:
        own = ["--data.cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "run"), "--dry_run", "true"]
        tiny = ["--model.tiny.hidden_size", "32", "--model.tiny.layers", "1", "--model.tiny.heads", "1"]
        code = main(["train", *arguments, "--data.eval_fraction", "0", *own, *tiny])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return train


@pytest.mark.slow
def test_columns_and_values_that_say_which_answer_is_better(dry_run, tmp_path) -> None:
    path = write(tmp_path / "rows.json", ROWS)
    code, said = dry_run("--data.path", path, *NAMED, *MEANT)
    assert code == 0, said
    assert "rows.json: 6 pairs read, 4 kept" in said
    assert "2 without a better and a worse response" in said
    assert "data.as_chat true puts it in" in said
    code, said = dry_run("--data.path", path, *NAMED)
    assert (code, said.count("\n")) == (2, 1)
    assert "In rows.json, row 1 has 'left' in its column preferred: say in data.preferred" in said


def test_values_one_by_one_and_as_chat_auto(dry_run, tmp_path) -> None:
    path = write(tmp_path / "rows.json", [row | {"winner": i % 2} for i, row in enumerate(ROWS)])
    one_by_one = ["--data.preferred.first", "0", "--data.preferred.second", "1", "--data.as_chat", "auto"]
    code, said = dry_run("--data.path", path, *NAMED, *one_by_one)
    assert code == 0 and "6 pairs read, 6 kept" in said
    assert "data.as_chat" not in said


@pytest.mark.slow
def test_lists_patterns_and_mixes(dry_run, tmp_path) -> None:
    pairs = [{"prompt": row["question"], "chosen": row["a"], "rejected": row["b"]} for row in ROWS]
    files = [write(tmp_path / f"part-{i}.json", pairs[2 * i : 2 * i + 2]) for i in range(3)]
    other = write(tmp_path / "other.json", ROWS)
    mix = {"path": other, "weight": 0.5, "columns": {"prompt": "question", "chosen": "a", "rejected": "b"}}
    for path in (f"[{','.join(files)}]", f"{tmp_path}/part-*.json"):
        code, said = dry_run("--data.path", path, "--data.mix", json.dumps([mix]))
        assert code == 0 and "12 pairs read, 12 kept" in said
    for wrong, expected in (
        ([mix | {"weight": -1}], "data.mix[0].weight is -1.0: it must be 0 or more"),
        ([mix | {"wieght": 1}], "unknown setting data.mix[0].wieght"),
        ([other], "it must be a list of groups of settings"),
        ([mix | {"columns": {}}], "In other.json, row 1 has no chosen"),
    ):
        code, said = dry_run("--data.path", files[0], "--data.mix", json.dumps(wrong))
        assert (code, said.count("\n")) == (2, 1)
        assert expected in said


@pytest.mark.slow
def test_a_column_is_left_out_by_null(dry_run, tmp_path) -> None:
    row = {"system": "be brief", "prompt": "q", "chosen": "a", "rejected": "b"}
    path = write(tmp_path / "rows.json", [row])
    assert "data.as_chat" not in dry_run("--data.path", path)[1]
    assert "data.as_chat true puts it in" in dry_run("--data.path", path, "--data.columns.system", "null")[1]


def test_columns_of_json_and_columns_that_nothing_reads(dry_run, tmp_path) -> None:
    talk = json.dumps([{"role": "assistant", "content": "a"}])
    pairs = [{"prompt": "write a dialogue", "chosen": talk, "rejected": "none", "source": "web"}] * 2
    path = write(tmp_path / "rows.json", pairs)
    code, said = dry_run("--data.path", path, "--data.json_columns", "[]", "--data.as_chat", "auto")
    assert code == 0 and "stand in no text of the row: source (2 rows)" in said, said
    code, said = dry_run("--data.path", path, "--data.json_columns", "[rejected]")
    assert (code, said.count("\n")) == (2, 1) and "row 1 has a text in rejected that is no JSON of messages" in said
    path = write(tmp_path / "rows.json", [{"frage": "was ist es?", "chosen": "so it is", "rejected": "so it was"}])
    code, said = dry_run("--data.path", path)
    assert (code, said.count("\n")) == (2, 1) and "has no prompt and text in frage: name the prompt" in said
