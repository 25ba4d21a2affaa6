"""The formats of AlpacaEval and MT-Bench."""

from __future__ import annotations

import json

import pytest

from iwpo_fast.evaluation.answer_formats import (
    NEAR_GREEDY,
    Instruction,
    Question,
    as_instruction,
    read_instructions,
    read_questions,
    save_alpaca_eval,
    save_mt_bench,
)


def test_instructions_are_read_with_their_data_set(tmp_path) -> None:
    path = tmp_path / "alpaca_eval.json"
    path.write_text(json.dumps([{"dataset": "vicuna", "instruction": "say", "output": "x", "generator": "g"}]))
    assert read_instructions(str(path)) == [Instruction("say", "vicuna")]


def test_answers_have_the_four_keys_of_model_outputs(tmp_path) -> None:
    save_alpaca_eval(tmp_path / "out.json", [Instruction("say", "vicuna")], ["this"], "mine")
    expected = {"dataset": "vicuna", "instruction": "say", "output": "this", "generator": "mine"}
    assert json.loads((tmp_path / "out.json").read_text()) == [expected]


def test_questions_have_the_temperatures_of_their_categories(tmp_path) -> None:
    path = tmp_path / "question.jsonl"
    rows = [
        {"question_id": 81, "category": "writing", "turns": ["a", "b"]},
        {"question_id": 111, "category": "math", "turns": ["c", "d"], "reference": ["e", "f"]},
        {"question_id": 900, "category": "own", "turns": ["g"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = read_questions(str(path))
    assert [question.temperature for question in questions] == [0.7, NEAR_GREEDY, 0.7]
    assert questions[1] == Question(111, "math", ["c", "d"])


def test_answers_to_questions_are_lines_as_the_judge_reads_them(tmp_path) -> None:
    save_mt_bench(tmp_path / "mine.jsonl", [Question(81, "writing", ["a", "b"])], [["one", "two"]], "mine")
    (line,) = map(json.loads, (tmp_path / "mine.jsonl").read_text().splitlines())
    assert line.keys() == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert (line["question_id"], line["model_id"]) == (81, "mine")
    assert line["choices"] == [{"index": 0, "turns": ["one", "two"]}]


def test_a_longer_conversation_is_one_text_with_its_roles() -> None:
    user, reply = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}
    assert as_instruction("say") == "say" and as_instruction([user]) == "hi"
    assert as_instruction([user, reply, user]) == "user: hi\n\nassistant: yes?\n\nuser: hi"


@pytest.mark.parametrize(
    ("read", "row", "sentence"),
    [
        (read_instructions, {"prompt": "p"}, "row 1 has no instruction"),
        (read_questions, {"question_id": 1, "turns": []}, "row 1 has no list of texts as its turns"),
        (read_questions, {"question_id": 1, "turns": "a"}, "row 1 has no list of texts as its turns"),
        (read_questions, {"turns": ["a"]}, "row 1 has no question_id"),
    ],
)
def test_rows_of_another_kind_are_refused_by_name(tmp_path, read, row, sentence) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=sentence):
        read(str(path))
