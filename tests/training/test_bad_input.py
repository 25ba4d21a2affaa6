"""Each mistake costs one sentence and exit code 2, before the first step and without a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iwpo_fast.cli import main

GOOD = {"prompt": "say: a\n", "chosen": "a", "rejected": "b"}


def rows(*changed: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in [GOOD, *changed])


CASES = {
    "malformed JSON": ('{"prompt": "a"\n', [], "line 1"),
    "missing chosen": (rows({"prompt": "x", "rejected": "y"}), [], "chosen"),
    "empty completion": (rows(GOOD | {"chosen": ""}), [], "empty"),
    "prompt is no prefix": (
        rows({"prompt": "x", "chosen": [{"role": "user", "content": "y"}], "rejected": "z"}),
        [],
        "row 2",
    ),
    "NaN weight": (rows().replace("}", ', "weight": NaN}'), [], "weight"),
    "negative weight": (rows(GOOD | {"weight": -1.0}).replace('"b"}', '"b", "weight": 1.0}'), [], "weight"),
    "missing weight": (rows(GOOD | {"weight": 1.0}), [], "weight"),
    "nothing left": (rows(), ["--data.truncation", "drop", "--data.max_length", "2"], "max_length"),
    "unknown objective": (rows(), ["--objective.name", "dpoo"], "sigmoid"),
    "unknown key": (rows(), ["--optim.lrr", "1"], "optim.lrr"),
    "beta zero": (rows(), ["--objective.beta", "0"], "positive"),
    "tracker not installed": (rows(), ["--log.trackers", "[trackio]"], "pip install trackio"),
}


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code = main(["train", *arguments])
    errors = capsys.readouterr().err
    sentences = [line for line in errors.splitlines() if line.startswith("iwpo: error: ")]
    assert code == 2
    assert len(sentences) == 1
    assert "Traceback" not in errors
    return sentences[0]


@pytest.mark.parametrize("case", CASES)
def test_bad_data_and_settings_are_one_sentence(case, tmp_path, capsys):
    content, flags, expected = CASES[case]
    data = tmp_path / "pairs.jsonl"
    data.write_text(content)
    common = [
        "--data.path",
        str(data),
        "--data.eval_fraction",
        "0",
        "--data.cache_dir",
        str(tmp_path / "cache"),
    ]
    tiny = ["--model.tiny.hidden_size", "32", "--model.tiny.heads", "2", "--device", "cpu"]
    out = tmp_path / "run"
    assert expected in run([*common, *tiny, "--output_dir", str(out), *flags], capsys)
    assert not out.exists()


def test_a_missing_file_is_named(tmp_path, capsys):
    assert "absent.jsonl" in run(["--data.path", str(tmp_path / "absent.jsonl")], capsys)


def test_an_unknown_key_in_the_recipe_is_named(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {path: pairs.jsonl}\noptim: {learning_rate: 1}\n")
    assert "optim.learning_rate" in run(["--config", str(recipe)], capsys)


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path, capsys):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.tex").write_text("draft")
    data = tmp_path / "pairs.jsonl"
    data.write_text(rows())
    message = run(["--data.path", str(data), "--output_dir", str(precious)], capsys)
    assert "is not a run" in message
    assert [path.name for path in precious.iterdir()] == ["chapter1.tex"]


def test_a_file_as_output_folder_is_refused(tmp_path, capsys):
    data = tmp_path / "pairs.jsonl"
    data.write_text(rows())
    assert "is a file" in run(["--data.path", str(data), "--output_dir", str(data)], capsys)
    assert Path(data).read_text() == rows()
