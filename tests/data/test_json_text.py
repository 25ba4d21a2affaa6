"""Whether a column's texts are JSON of messages is decided by all of its rows, or by a setting, and said."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.ledger import reading_lines
from iwpo_fast.data.tokenise import tokenise

ASKED = [{"role": "user", "content": "q"}]
TALK = {"prompt": ASKED} | {
    name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "a"), ("rejected", "b"))
}
STORED = {name: json.dumps(value) for name, value in TALK.items()}
PLAIN = {"prompt": "write JSON", "chosen": "{}", "rejected": "none"}
LIKE: dict[str, str] = {
    "messages": json.dumps(ASKED),
    "one message": json.dumps({"role": "assistant", "content": "a"}),
    "ShareGPT": json.dumps([{"from": "gpt", "value": "a"}]),
    "of no role": json.dumps([{"from": "narrator", "value": "a"}]),
    "Python source": str(ASKED),
}


def said(rows, tokenizer, config) -> str:
    return "\n".join(tokenise(rows, tokenizer, config)[1].lines())


@pytest.mark.parametrize("like", LIKE.values(), ids=LIKE)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", ["chosen", "prompt"])
def test_one_answer_that_looks_like_messages_stays_text_wherever_it_stands(name, place, like, write, tokenizer) -> None:
    rows = [PLAIN, PLAIN, PLAIN]
    rows[{"first": 0, "middle": 1, "last": 2}[place]] = PLAIN | {name: like}
    config = write(rows)
    found = read_rows(config)[0]
    assert sorted(getattr(found, name)) == sorted([like, PLAIN[name], PLAIN[name]])
    assert f"  {name}: looks like JSON of messages and stays text (data.json_columns): 1" in said(
        found, tokenizer, config
    )


def test_columns_in_which_every_text_is_messages_are_read_as_such(write, tokenizer) -> None:
    config = write([STORED, STORED, TALK])
    found = read_rows(config)[0]
    assert [found.prompt, found.chosen, found.rejected] == [[TALK[name]] * 3 for name in TALK]
    assert "  chosen: JSON text, read as what it stands for: 2" in said(found, tokenizer, config)


def test_the_setting_decides_where_the_rows_do_not(write) -> None:
    row = {"prompt": "write a dialogue", "chosen": STORED["chosen"], "rejected": STORED["rejected"]}
    assert read_rows(write([row]))[0].chosen == [TALK["chosen"]]
    as_text = read_rows(write([row], json_columns=[]))[0]
    assert (as_text.chosen, as_text.notes) == ([row["chosen"]], {})
    assert read_rows(write([STORED], json_columns=["prompt", "chosen", "rejected"]))[0].chosen == [TALK["chosen"]]
    with pytest.raises(ValueError, match=r"row 2 has a text in chosen that is no JSON of messages, as data\.json_col"):
        read_rows(write([STORED, STORED | {"chosen": "a"}], json_columns=["prompt", "chosen", "rejected"]))
    for name in ("conversations", "messages"):
        with pytest.raises(ValueError, match=f"row 1 has a text in {name} that is no JSON of messages"):
            read_rows(write([PLAIN | {name: "say it"}], json_columns=[name]))
    with pytest.raises(ValueError, match=r"data\.json_columns names 'choosen': use auto, or some of prompt, chosen"):
        read_rows(write([STORED], json_columns=["choosen"]))


@pytest.mark.parametrize("lists", [('["a"]', '["b"]'), ("['a']", "['b']")])
def test_answers_that_are_lists_are_refused_only_if_all_are(lists, write) -> None:
    row = {"prompt": "list it"} | dict(zip(("chosen", "rejected"), lists, strict=True))
    with pytest.raises(ValueError, match="row 1 has lists as JSON text in chosen and rejected, as all rows have"):
        read_rows(write([row, row]))
    assert read_rows(write([row, PLAIN]))[0].chosen == [lists[0], "{}"]
    assert read_rows(write([row, row], json_columns=[]))[0].chosen == [lists[0]] * 2


def parts(text: str) -> str:
    return json.dumps([{"type": "text", "text": text}])


def test_contents_are_decided_by_column_and_role(write) -> None:
    def row(question: str, answer: str) -> dict[str, Any]:
        return TALK | {
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": answer}],
        }

    found = read_rows(write([row(parts("q"), parts("a")), row(parts("r"), "plain")]))[0]
    assert [prompt[0]["content"][0]["text"] for prompt in found.prompt] == ["q", "r"]
    assert [answer[0]["content"] for answer in found.chosen] == [parts("a"), "plain"]
    assert "the content of the assistant's messages in chosen: looks like JSON" in "\n".join(found.notes)


def test_contents_of_sharegpt_may_be_parts_too(write) -> None:
    row = TALK | {"prompt": [{"from": "human", "value": parts("q")}]}
    assert read_rows(write([row]))[0].prompt == [[{"role": "user", "content": json.loads(parts("q"))}]]


def test_a_list_of_calls_is_no_list_of_parts(write) -> None:
    calls = json.dumps([{"type": "function", "function": {"name": "look", "arguments": {}}}])
    row = TALK | {"chosen": [{"role": "assistant", "content": calls}]}
    assert read_rows(write([row]))[0].chosen == [row["chosen"]]


def test_a_role_that_would_write_on_a_terminal_is_said_in_letters(write) -> None:
    row = TALK | {"prompt": [{"role": "us\x1b[31mer", "content": parts("q")}]}
    [line] = reading_lines({}, read_rows(write([row]))[0].notes)
    assert line.startswith(r"the content of the us\x1b[31mer's messages in prompt: JSON text")


def test_candidates_are_decided_together(write) -> None:
    like = json.dumps({"role": "assistant", "content": "a"})
    row = {"prompt": "q", "candidate_scores": [2, 1]}
    other = like.replace('"a"', '"c"')
    plain = [row | {"candidates": [f"{i}", "b"]} for i in range(2)]
    mixed = read_rows(write([row | {"candidates": [like, other]}, row | {"candidates": [like, "b"]}, *plain]))[0]
    assert (mixed.chosen, mixed.rejected) == ([like, like, "0", "1"], [other, "b", "b", "b"])
    with pytest.raises(ValueError, match=r"row 2 .*has a text in candidates that is no JSON of messages"):
        read_rows(write([row | {"candidates": [like, other]}, row | {"candidates": [like, "b"]}]))
    assert read_rows(write([row | {"candidates": [like, other]}]))[0].prompt == [ASKED]


def test_tables_are_decided_in_the_same_way(tmp_path) -> None:
    def written(rows: list[dict[str, Any]]) -> DataConfig:
        with open(tmp_path / "pairs.csv", "w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        return DataConfig(path=str(tmp_path / "pairs.csv"), eval_fraction=0.0)

    pandas = {name: str(value) for name, value in TALK.items()}
    assert read_rows(written([pandas, STORED]))[0].chosen == [TALK["chosen"]] * 2
    assert read_rows(written([PLAIN | {"chosen": str(ASKED)}, PLAIN]))[0].chosen == [str(ASKED), "{}"]
    for scores in ("candidate_scores", "scores"):
        listed = {"prompt": "q", "candidates": json.dumps(["a", "b", "c"]), scores: "[0, 2.5, null]"}
        found = read_rows(written([listed]))[0]
        assert (found.chosen, found.rejected, found.columns["score_chosen"].tolist()) == (["b"], ["a"], [2.5])


def test_an_error_that_reading_as_messages_would_make_does_not_refuse_text(write) -> None:
    like = json.dumps([{"from": "narrator", "value": "a"}])
    found = read_rows(write([PLAIN | {"chosen": like}, PLAIN]))[0]
    assert found.chosen == [like, "{}"]


def test_a_key_that_stands_twice_in_an_answer_about_json_does_not_refuse_it(write) -> None:
    for like in ('[{"role": "user", "role": "x", "content": "a"}]', '["{\\"role\\": 1, \\"role\\": 2}"]'):
        found = read_rows(write([PLAIN, PLAIN | {"chosen": like}]))[0]
        assert found.chosen == ["{}", like]


REPEATED = '{"prompt": "q", "chosen": "a", "chosen": "c", "rejected": "b"}'


def test_a_key_that_stands_twice_is_refused_with_its_line_however_it_is_stored(write, tmp_path) -> None:
    fine = json.dumps(PLAIN)
    with pytest.raises(ValueError, match=r"pairs\.jsonl has the key 'chosen' twice in one object on line 2: keep one"):
        read_rows(write(f"{fine}\n{REPEATED}\n"))
    with pytest.raises(ValueError, match="has the key 'content' twice in one object on line 1"):
        read_rows(
            write('{"prompt": [{"role": "user", "content": "q", "content": "r"}], "chosen": "a", "rejected": "b"}')
        )
    listed = tmp_path / "pairs.json"
    listed.write_text(f"[{fine}, {REPEATED}]")
    with pytest.raises(ValueError, match=r"pairs\.json has the key 'chosen' twice in one object: keep one"):
        read_rows(DataConfig(path=str(listed)))
    twice = '[{"role": "assistant", "content": "a", "content": "c"}]'
    with pytest.raises(ValueError, match="row 2 has the key 'content' twice in one object"):
        read_rows(write([STORED, STORED | {"chosen": twice}]))
    tools = '[{"type": "function", "type": "f"}]'
    with pytest.raises(ValueError, match="row 1 has the key 'type' twice in one object"):
        read_rows(write([TALK | {"tools": tools}]))


@pytest.mark.parametrize("where", range(3))
def test_one_plain_prompt_among_prompts_that_are_json_is_refused_by_its_row(where, write) -> None:
    rows = [dict(STORED) for _ in range(3)]
    rows[where]["prompt"] = "Is it?"
    with pytest.raises(ValueError, match=rf"row {where + 1} .*has a text in prompt that is no JSON of messages, as at"):
        read_rows(write(rows))


def test_a_key_that_stands_twice_in_python_source_is_refused_as_in_json(write) -> None:
    said = "[{{'role': 'user', 'content': 'q', 'content': 'r'}}, {{'role': 'assistant', 'content': '{}'}}]"
    with pytest.raises(ValueError, match="row 1 has the key 'content' twice in one object: keep one of them"):
        read_rows(write([{"chosen": said.format("a"), "rejected": said.format("b")}]))
    answer = {"prompt": "q", "chosen": "{'a': 1, 'a': 2}", "rejected": "none"}
    assert read_rows(write([answer]))[0].chosen == ["{'a': 1, 'a': 2}"]
