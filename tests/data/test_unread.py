"""Columns that nothing reads are said once, with their rows; where they may hold the prompt, they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.tokenise import tokenise

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
SIDES = {"chosen": "so it is", "rejected": "so it was"}
ASKED = [{"role": "user", "content": "q"}]
TALK = {name: [*ASKED, {"role": "assistant", "content": text}] for name, text in (("chosen", "a"), ("rejected", "b"))}
HH = {name: f"\n\nHuman: q\n\nAssistant: {text}" for name, text in (("chosen", "a"), ("rejected", "b"))}
QUESTION = "welche Farbe hat er"
VALUES: dict[str, Any] = {
    "text": QUESTION,
    "list": ["welche", QUESTION],
    "struct": {"language": "de", "inside": QUESTION},
    "messages": [{"role": "user", "content": QUESTION}],
    "ShareGPT": [{"from": "human", "value": QUESTION}],
    "deep": [{"turns": [[QUESTION]]}],
}


def in_parquet(path: Path, rows: list[dict[str, Any]]) -> DataConfig:
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    return DataConfig(path=str(path), eval_fraction=0.0)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("beside", [PAIR, TALK, HH], ids=["a prompt", "conversations", "dialogues"])
def test_a_column_of_any_type_is_said_with_its_rows_where_there_is_a_prompt(beside, value, write, tmp_path) -> None:
    rows = [beside | {"frage": value}, beside | {"frage": None}, beside | {"frage": value}]
    assert read_rows(write(rows))[0].unread == {"frage": 2}
    assert read_rows(in_parquet(tmp_path / "rows.parquet", rows))[0].unread == {"frage": 2}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_column_of_any_type_that_reads_like_a_prompt_is_refused_where_there_is_none(value, write, tmp_path) -> None:
    rows = [SIDES | {"frage": value}]
    for config in (write(rows), in_parquet(tmp_path / "rows.parquet", rows)):
        with pytest.raises(
            ValueError, match=r"row 1 has no prompt and text in frage: .*\{prompt: frage\}.*prompt: null"
        ):
            read_rows(config)
    denied = read_rows(write(rows, columns={"prompt": None}))[0]
    assert denied.unread == {"frage": 1}


@pytest.mark.parametrize("text", ["why?", "один два три", "天空是什么颜色", "what is it"])
def test_prompts_of_any_language_are_refused_and_labels_are_said(text, write) -> None:
    with pytest.raises(ValueError, match="row 2 has no prompt and text in topic"):
        read_rows(write([SIDES | {"topic": "web"}, SIDES | {"topic": text}]))
    labels = [SIDES | {"source": "flan_v2", "model": "Some-7B", "url": "https://some.where/a-b"}]
    assert read_rows(write(labels))[0].unread == {"source": 1, "model": 1, "url": 1}


def test_answers_without_their_question_are_refused_where_a_column_may_hold_it(write) -> None:
    alone = {name: [TALK[name][-1]] for name in TALK}
    with pytest.raises(ValueError, match="row 1 has no prompt and text in frage"):
        read_rows(write([alone | {"frage": QUESTION}]))
    candidates = {"candidates": ["a", "b"], "candidate_scores": [1, 0], "frage": QUESTION}
    with pytest.raises(ValueError, match="row 1 has no prompt and text in frage"):
        read_rows(write([candidates]))


def test_a_text_that_stands_in_the_prompt_or_an_answer_needs_no_word(write) -> None:
    row = {"prompt": "is it blue?", "chosen": "yes, it is", "rejected": "no", "copy": "is it blue?", "said": ["no"]}
    assert read_rows(write([row]))[0].unread == {}


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "user", "text": QUESTION}],
        [{"from": "human", "text": QUESTION}],
        {"from": "someone", "subject": QUESTION},
        {"role": "user", "message": {"parts": [QUESTION]}},
        [{"role": "user", "content": {"parts": [QUESTION]}}],
        [{"role": "user", "content": [QUESTION]}],
        [{"role": "user", "content": None, "text": QUESTION}],
    ],
)
def test_messages_that_keep_their_text_in_another_form_lose_none_of_it_in_silence(value, write) -> None:
    assert read_rows(write([PAIR | {"frage": value}]))[0].unread == {"frage": 1}
    with pytest.raises(ValueError, match="row 1 has no prompt and text in frage"):
        read_rows(write([SIDES | {"frage": value}]))


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_content": "first I look"},
        {"thinking": "first I look"},
        {"tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}]},
    ],
)
def test_what_messages_say_beside_their_content_is_looked_for_too(more, write) -> None:
    answer = [{"role": "assistant", "content": "a"} | more]
    row = {"prompt": ASKED, "rejected": "b", "copy": [*ASKED, *answer]}
    assert read_rows(write([row | {"chosen": "a"}]))[0].unread == {"copy": 1}
    assert (
        read_rows(write([row | {"chosen": answer, "rejected": [{"role": "assistant", "content": "b"}]}]))[0].unread
        == {}
    )


def test_an_answer_about_json_in_which_a_key_stands_twice_is_text_beside_other_columns_too(write) -> None:
    like = '[{"role": "user", "role": "x", "content": "a"}]'
    rows = [PAIR | {"source": "web"}, PAIR | {"chosen": like, "source": "web"}]
    found = read_rows(write(rows))[0]
    assert (found.chosen, found.unread) == (["a", like], {"source": 2})


def test_numbers_are_no_texts(write) -> None:
    assert read_rows(write([PAIR | {"votes": 3, "ok": True, "scores_of": [1.5], "at": {"line": 2}}]))[0].unread == {}


def test_a_column_whose_place_another_takes_is_counted(write, tmp_path) -> None:
    rows = [{"question": "why is it?", "prompt": "in one word", **SIDES}]
    for config in (write(rows), in_parquet(tmp_path / "rows.parquet", rows)):
        config.columns = {"prompt": "question"}
        found = read_rows(config)[0]
        assert (found.prompt, found.unread) == (["why is it?"], {"prompt": 1})


@pytest.mark.parametrize(
    ("more", "unread"),
    [
        ({"completion": "c"}, ["completion"]),
        ({"first": "c", "second": "d"}, ["first", "second"]),
        ({"candidates": [{"response": "c", "critique": "too short"}]}, ["candidates beside its responses"]),
        ({"completions": ["c", "d"]}, ["completions"]),
        ({"answers": [{"text": "c"}]}, ["answers"]),
        ({"scores": ["good", "bad"]}, ["scores"]),
        ({"candidates": ["c"], "scores": [1.5]}, []),
    ],
)
def test_columns_that_others_hide_are_counted(more, unread, write) -> None:
    assert list(read_rows(write([PAIR | more]))[0].unread) == unread


def test_ranked_answers_beside_candidates_are_refused(write) -> None:
    row = {"prompt": "q", "ranked": ["a", "b"], "candidates": ["c", "d"]}
    with pytest.raises(ValueError, match="row 1 has both ranked and candidates"):
        read_rows(write([row]))


def test_all_columns_stand_in_one_line(write, tokenizer) -> None:
    config = write([PAIR | {"source": "web", "lang\x1b[31m": "de"}, PAIR | {"source": "web"}])
    _, ledger = tokenise(read_rows(config)[0], tokenizer, config)
    [line] = [line for line in ledger.lines() if "left out" in line]
    assert line.endswith(r"stand in no text of the row: source (2 rows), lang\x1b[31m (1 rows)")


def test_mixed_data_sets_are_counted_together(write, tmp_path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "q", "chosen": "a", "rejected": "b", "source": "web"}\n' * 3)
    from iwpo_fast.config import MixedConfig

    config = write([PAIR | {"source": "web"}], mix=[MixedConfig(path=str(other))])
    assert read_rows(config)[0].unread == {"source": 4}


@pytest.mark.parametrize(("label", "counted"), [("a", 0), ("ed", 1), ("red", 0), ("re", 1), ("猫", 0)])
def test_a_label_stands_in_a_text_as_a_whole_word_alone(label, counted, write) -> None:
    row = {"prompt": "what is a 黑猫", "chosen": "red, and large", "rejected": "blue"}
    assert read_rows(write([row | {"label_of_it": label}]))[0].unread.get("label_of_it", 0) == counted
