from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty rows behind a blank line, so that row n is line n + 1 of the file; a tenth is held out."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"say {n}:\n", "chosen": "yes " * n, "rejected": f"no {n}"} for n in range(2, 62)]
    Path("pairs.jsonl").write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def preview(*flags: str) -> int:
    fixed = ["--data.path", "pairs.jsonl", "--data.cache_dir", "cache", "--model.tiny.vocab_size", "300"]
    return main(["preview", *fixed, "--data.eval_fraction", "0.1", *flags])


def test_three_typical_pairs_are_shown_with_their_rows_of_the_file(data, capsys) -> None:
    assert preview("--data.max_length", "4096") == 0
    said = capsys.readouterr().out
    assert said.startswith("pairs.jsonl: ")
    headings = [line.partition(":")[0] for line in said.splitlines() if line[0] != " "][3:]
    assert [heading.partition(",")[0] for heading in headings] == ["shortest", "median", "longest"]
    shortest, _, longest = (int(heading.rpartition(" ")[2]) for heading in headings)
    assert f"prompt   say {shortest}:" in said and f"prompt   say {longest}:" in said
    assert shortest < 10 and longest > 50
    assert "\x1b" not in said


@pytest.mark.slow
def test_given_rows_are_shown_in_their_order_whether_they_are_held_out_or_not(data, capsys) -> None:
    assert preview("--rows", "17, 3,40") == 0
    said = capsys.readouterr().out
    assert [int(word) for word in _prompts(said)] == [17, 3, 40]
    everything = ",".join(str(n) for n in range(2, 62))
    assert preview("--rows", everything) == 0
    said = capsys.readouterr().out
    assert [int(word) for word in _prompts(said)] == list(range(2, 62))
    assert 0 < said.count("(held out)") < 20


def test_rows_of_a_file_of_held_out_pairs_are_shown_beside_those_of_training(data, capsys) -> None:
    rows = [{"prompt": f"tell {n}:\n", "chosen": "yes", "rejected": "no", "note": "b"} for n in range(90)]
    Path("eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    held_out = ["--data.eval_path", "eval.jsonl", "--data.eval_fraction", "0"]
    fixed = ["preview", "--data.path", "pairs.jsonl", "--data.cache_dir", "cache", "--model.tiny.vocab_size", "300"]
    assert main([*fixed, *held_out, "--rows", "3,80"]) == 0
    said = capsys.readouterr().out
    assert "\nrow 3: " in said and "\nrow 3 of eval.jsonl (held out): " in said
    assert "row 80 of eval.jsonl (held out): " in said and "\nrow 80: " not in said
    assert said.startswith(
        "eval.jsonl, held out: left out, because their texts stand in no text of the row: note (90 rows)"
    )
    assert main([*fixed, *held_out]) == 0
    said = capsys.readouterr().out
    assert "eval.jsonl, held out: 90 pairs read, 90 kept\n  left out, because" in said
    assert main([*fixed, *held_out, "--rows", "91"]) == 2


def test_given_rows_are_shown_with_what_is_left_out_of_them(data, capsys) -> None:
    turns = [{"role": "user", "content": "ask", "name": "ann"}]
    rows = [
        {"prompt": turns, "chosen": [{"role": "assistant", "content": "yes"}], "rejected": "no", "source": "web"},
        {"prompt": [{"role": "user", "content": "ask"}], "chosen": "yes", "rejected": "no"},
    ]
    rows[0]["rejected"] = [{"role": "assistant", "content": "no"}]
    Path("talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    Path("template.jinja").write_text(template, encoding="utf-8")
    flags = ["--data.path", "talk.jsonl", "--data.eval_fraction", "0", "--data.chat_template", "template.jinja"]
    for shown, count in (("1,2", 1), ("2", 0)):
        assert preview(*flags, "--rows", shown) == 0
        said = capsys.readouterr().out
        assert "talk.jsonl: left out, because their texts stand in no text of the row: source (1 rows)" in said
        expected = "of the rows below, the chat template leaves out the name of messages of the role user: 1 rows"
        assert said.count(expected) == count


def _prompts(said: str) -> list[str]:
    return [line.split()[2].strip(":↵") for line in said.splitlines() if line.startswith("  prompt ")]


@pytest.mark.slow
def test_votes_are_shown_where_the_recipe_learns_from_them(data, capsys) -> None:
    sides = {"prompt": "say:\n", "chosen": "yes", "rejected": "no"}
    rows = [sides | {"score_chosen": {"5": 1, "4": 2}, "score_rejected": [1, None]}] * 20
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert preview("--rewards.heads", "dprm", "--rows", "3") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "score_chosen [4, 4, 5]" in said and "[1, null, null]" in said
    assert preview("--rows", "3") == 2
    assert "which counts votes: learn from them by iwpo run with rewards.heads dprm" in capsys.readouterr().err


def test_full_shows_texts_whole(data, capsys) -> None:
    assert preview("--rows", "61", "--data.max_length", "4096") == 0
    assert "tokens …]" in capsys.readouterr().out
    assert preview("--rows", "61", "--data.max_length", "4096", "--full", "true") == 0
    said = capsys.readouterr().out
    assert "tokens …]" not in said and said.count("yes") == 61


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--rows", "1"], "rows names 1, and pairs.jsonl has no pair there: the row is absent, blank or beyond"),
        (["--rows", "62"], "rows names 62, and pairs.jsonl has no pair there"),
        (["--rows", "0"], "rows is 0: give numbers of rows, from 1, such as 3,17."),
        (["--rows", "3-5"], "rows is 3-5: give numbers of rows, from 1, such as 3,17."),
        (["--model.path", "absent"], "absent"),
        (["--data.columns", "{chosen: better}"], "data.columns names 'better' as chosen, which pairs.jsonl does not"),
        (["--full", "perhaps"], "full is perhaps: it must be"),
    ],
)
def test_a_mistake_is_one_sentence(data, capsys, flags, sentence) -> None:
    assert preview(*flags) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("iwpo: error: ") and said.count("\n") == 1


@pytest.mark.slow
def test_a_recipe_of_a_training_is_one_of_a_preview(data, capsys) -> None:
    Path("recipe.yaml").write_text("data: {path: pairs.jsonl}\noptim: {lr: 1e-5}\nobjective: {label_smoothing: 0.2}\n")
    assert main(["preview", "--config", "recipe.yaml", "--data.cache_dir", "cache", "--rows", "5"]) == 0
    assert "; weight 1, label_smoothing 0.2" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "run"])
def test_a_dry_run_shows_the_same_pairs(data, capsys, command) -> None:
    assert preview("--data.max_length", "256") == 0
    alone = capsys.readouterr().out
    block = alone[alone.index("preview of pairs.jsonl") :]
    flags = ["--data.path", "pairs.jsonl", "--data.cache_dir", "cache", "--model.tiny.vocab_size", "300"]
    flags += ["--data.eval_fraction", "0.1", "--data.max_length", "256", "--output_dir", "out", "--device", "cpu"]
    assert main([command, *flags, "--dry_run", "true"]) == 0
    assert block in capsys.readouterr().out
    assert not Path("out").exists()


@pytest.mark.slow
def test_rows_of_several_files_are_named_by_their_file(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, words in (("a", ["one"]), ("b", ["two two", "three three three three"])):
        Path(folder).mkdir()
        rows = [{"prompt": f"say {text}:\n", "chosen": f"{text} yes", "rejected": f"{text} no"} for text in words]
        Path(folder, "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    places = ["--data.path", "[a/train.jsonl,b/train.jsonl]", "--data.eval_fraction", "0", "--data.cache_dir", "cache"]
    assert main(["preview", *places, "--model.tiny.vocab_size", "300"]) == 0
    said = capsys.readouterr().out
    assert "shortest, a/train.jsonl, row 1:" in said and "longest, b/train.jsonl, row 2:" in said
    assert main(["preview", *places, "--model.tiny.vocab_size", "300", "--rows", "3"]) == 0
    assert "row 3, which is b/train.jsonl, row 2:" in capsys.readouterr().out
