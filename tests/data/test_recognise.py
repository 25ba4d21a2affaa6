"""Schemas of other trainers, brought to ours; what is seen in no text is refused or counted."""

from __future__ import annotations

import json

import pytest

from iwpo_fast.data import read_rows
from iwpo_fast.data.tokenise import tokenise

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
SIDES = {"chosen": "a", "rejected": "b"}
ASKED = [{"role": "user", "content": "q"}]
YES, NO = ([{"role": "assistant", "content": text}] for text in ("a", "b"))
WORDS = {"question": "why", "context": [{"role": "user", "content": "why"}], "input": "why", "query": "why"}


def read(config) -> tuple:
    rows = read_rows(config)[0]
    return rows.prompt[0], rows.chosen[0], rows.rejected[0]


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("prompt", [{}, {"prompt": ""}, {"prompt": None}, {"prompt": []}])
def test_a_prompt_under_another_name_is_asked_for(name, prompt, write) -> None:
    with pytest.raises(ValueError, match=rf"has no prompt and text in {name}: .*prompt: {name}.*prompt: null"):
        read(write([SIDES | prompt | {name: WORDS[name]}]))


def test_and_may_be_named_or_denied(write) -> None:
    row = {"chosen": "so it is", "rejected": "so it was", "question": "why"}
    assert read(write([row], columns={"prompt": "question"})) == ("why", "so it is", "so it was")
    rows = read_rows(write([row], columns={"prompt": None}))[0]
    assert rows.prompt == ["so it"] and rows.unread == {"question": 1}


def test_a_column_whose_text_stands_in_the_answers_needs_no_word(write) -> None:
    row = {"chosen": "why is it? so", "rejected": "why is it? no", "question": "why is it?"}
    rows = read_rows(write([row]))[0]
    assert (rows.prompt, rows.unread) == (["why is it?"], {})
    chat = {"chosen": [*ASKED, *YES], "rejected": [*ASKED, *NO], "question": "q", "context": ASKED}
    assert read_rows(write([chat]))[0].unread == {}


def test_texts_beside_a_prompt_that_are_nowhere_are_counted_and_said(write, tokenizer, tmp_path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "user", "content": "and more"}]
    rows = [PAIR | {"context": "once", "question": "q"}, PAIR | {"context": turns}, PAIR | {"context": ""}]
    config = write(rows, eval_fraction=0.0)
    found = read_rows(config)[0]
    assert found.unread == {"context": 2}
    _, ledger = tokenise(found, tokenizer, config)
    assert "  left out, because their texts stand in no text of the row: context (2 rows)" in ledger.lines()
    ledger.save(tmp_path / "ledger.json")
    assert json.loads((tmp_path / "ledger.json").read_text())["unread"] == {"context": 2}


def test_joined_columns_leave_out_what_is_empty(write) -> None:
    for given, prompt in ((("one", "two"), "one\ntwo"), (("one", ""), "one"), (("one", None), "one")):
        row = SIDES | dict(zip(("instruction", "text"), given, strict=True))
        assert read(write([row], columns={"prompt": "instruction+text"}))[0] == prompt
    with pytest.raises(ValueError, match=r"'instruction\+other' as prompt, which pairs\.jsonl does not have"):
        read(write([row], columns={"prompt": "instruction+other"}))
    named = {"a+b": "one", "a": "x", "b": "y"} | SIDES
    assert read(write([named], columns={"prompt": "a+b"}))[0] == "one"


@pytest.mark.parametrize("part", ["prompt", "system", "history", "chosen_by", "answers"])
def test_a_joined_column_may_have_a_name_of_ours(part, write) -> None:
    rows = read_rows(write([SIDES | {part: "one", "input": "two"}], columns={"prompt": f"{part}+input"}))[0]
    assert (rows.prompt, rows.unread) == (["one\ntwo"], {})


SYSTEM = {"role": "system", "content": "be brief"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "q"} | SIDES, ([SYSTEM, *ASKED], YES, NO)),
        ({"prompt": ASKED} | SIDES, ([SYSTEM, *ASKED], YES, NO)),
        ({"prompt": [SYSTEM, *ASKED]} | SIDES, ([SYSTEM, *ASKED], YES, NO)),
        ({"chosen": [*ASKED, *YES], "rejected": [*ASKED, *NO]}, ([SYSTEM, *ASKED], YES, NO)),
        ({"prompt": "q", "chosen": YES, "rejected": NO}, ([SYSTEM, *ASKED], YES, NO)),
    ],
)
def test_the_text_of_the_system_comes_first_in_every_form(row, expected, write) -> None:
    assert read(write([row | {"system": "be brief"}])) == expected
    assert read(write([row | {"sys": "be brief"}], columns={"system": "sys"})) == expected


def test_rows_without_a_text_of_the_system_are_conversations_too(write) -> None:
    rows = read_rows(write([PAIR | {"system": text} for text in ("be brief", "", None)]))[0]
    assert rows.prompt == [[SYSTEM, *ASKED], ASKED, ASKED]
    assert read(write([PAIR | {"system": "be brief"}], columns={"system": None})) == ("q", "a", "b")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (SIDES | {"system": "be brief"}, "has a system or history column, and no prompt"),
        ({"prompt": [SYSTEM, *ASKED], "system": "be long"} | SIDES, "a system message and another text in its column"),
        (PAIR | {"history": "x"}, "neither messages nor couples"),
        (PAIR | {"history": [["x"]]}, "neither messages nor couples"),
        (SIDES | {"conversations": [{"from": "narrator", "value": "x"}]}, "has a message from 'narrator': use human"),
        (PAIR | {"chosen": [{"from": "gpt"}]}, "has a message without from and value"),
        (PAIR | {"chosen": {"from": "function_call", "value": "x"}}, "a function_call that is not JSON"),
        ({"prompt": "q", "ranked": "a"}, "has ranked answers of type str"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(row, expected, write) -> None:
    with pytest.raises(ValueError, match=rf"^In pairs\.jsonl, row 1 .*{expected}"):
        read(write([row]))


@pytest.mark.parametrize(
    "history", [[["x", "y"]], [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]]
)
def test_earlier_turns_come_before_the_prompt(history, write) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    for given in (history, json.dumps(history)):
        assert read(write([PAIR | {"history": given}]))[0] == [*turns, *ASKED]
        assert read(write([PAIR | {"history": given, "system": "be brief"}]))[0] == [SYSTEM, *turns, *ASKED]


def test_calls_and_answers_of_tools_in_sharegpt(write) -> None:
    call = {"name": "add", "arguments": {"x": 1}}
    turns = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "2"},
    ]
    prompt = read(write([SIDES | {"conversations": turns}]))[0]
    assert [message["role"] for message in prompt] == ["user", "assistant", "tool"]
    assert prompt[1]["tool_calls"] == [{"type": "function", "function": call}]


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_text_that_only_looks_like_json_stays_text(side, write) -> None:
    for text in ('[{"role": 1}, 2]', '[{"a": 1}]', '{"role": "x"}', '["a"]', '[{"role"', '{{"role"}}', "{[1]: 'from'}"):
        found = read(write([PAIR | {side: text}]))
        assert found[1 if side == "chosen" else 2] == text


@pytest.mark.parametrize("name", ["conversations", "messages"])
def test_dialogues_are_the_prompt_only_where_there_is_none(name, write) -> None:
    other = [{"from": "human", "value": "other"}]
    assert read(write([PAIR | {name: other}])) == ("q", "a", "b")
    assert read(write([SIDES | {name: json.dumps(other)}]))[0] == [{"role": "user", "content": "other"}]
    assert read(write([PAIR | {name: [{"from": "narrator"}]}])) == ("q", "a", "b")


def test_messages_as_text_in_any_column(write) -> None:
    for names in (["prompt"], ["prompt", "chosen", "rejected"]):
        row = {"prompt": ASKED, "chosen": YES, "rejected": NO}
        assert read(write([row | {name: json.dumps(row[name]) for name in names}])) == (ASKED, YES, NO)


@pytest.mark.parametrize("turn", [*ASKED, {"from": "human", "value": "q"}])
def test_each_message_of_a_list_may_stand_as_text(turn, write) -> None:
    for name in ("prompt", "conversations", "messages"):
        assert read(write([SIDES | {name: [json.dumps(turn)]}])) == (ASKED, YES, NO)


def test_candidates_of_one_message_and_ranks_of_them(write) -> None:
    row = {"prompt": "q", "ranked": [YES[0], {"from": "gpt", "value": "c"}, NO[0]]}
    rows = read_rows(write([row]))[0]
    assert (rows.prompt[0], rows.chosen[0], rows.rejected[0]) == (ASKED, YES, NO)
    assert rows.candidates is not None and rows.candidates.texts == [[{"role": "assistant", "content": "c"}]]


def test_a_prompt_that_answers_repeat_is_cut_off_behind_a_system_text_too(write) -> None:
    asked = {"prompt": "And is it so?", "chosen": "And is it so? Yes.", "rejected": "And is it so? No."}
    rows = read_rows(write([asked | {"system": "Be brief."}]))[0]
    assert [message["content"] for message in rows.prompt[0]] == ["Be brief.", "And is it so?"]
    assert [message["content"] for message in (*rows.chosen[0], *rows.rejected[0])] == [" Yes.", " No."]


@pytest.mark.parametrize("value", [5, ["x"]])
def test_a_joined_column_that_is_no_text_is_one_sentence(value, write) -> None:
    row = {"instruction": "Is", "input": value, "chosen": "A", "rejected": "B"}
    with pytest.raises(
        ValueError, match=rf"row 1 has a value of type {type(value).__name__} in input, which data\.columns joins"
    ):
        read_rows(write([row], columns={"prompt": "instruction+input"}))


def test_keys_beside_from_and_value_are_kept(write) -> None:
    answers = {
        name: {"from": "gpt", "value": text, "thinking": "well"} for name, text in (("chosen", "a"), ("rejected", "b"))
    }
    rows = read_rows(write([{"prompt": [{"from": "human", "value": "q"}]} | answers]))[0]
    assert rows.chosen == [[{"role": "assistant", "content": "a", "thinking": "well"}]]


@pytest.mark.parametrize("context", [{"contexts": ["lost"]}, [{"title": "t", "text": "lost"}], "lost"])
def test_a_context_in_any_form_is_counted_beside_a_prompt(context, write) -> None:
    assert read_rows(write([PAIR | {"context": context}]))[0].unread == {"context": 1}


@pytest.mark.parametrize("name", ["user_prompt", "problem", "document"])
def test_a_question_under_a_common_name_is_asked_for(name, write) -> None:
    with pytest.raises(ValueError, match=f"row 1 has no prompt and text in {name}: name the prompt"):
        read_rows(write([SIDES | {name: "why"}]))


@pytest.mark.parametrize("lists", [("['a']", "['b']"), ('["a"]', '["b"]'), (' ["a"]', ' ["b"]')])
def test_answers_that_are_lists_as_text_are_refused_whatever_the_prompt(lists, write) -> None:
    with pytest.raises(ValueError, match="row 1 has lists as JSON text in chosen and rejected"):
        read_rows(write([{"prompt": "q", "chosen": lists[0], "rejected": lists[1]}]))


@pytest.mark.parametrize("beside", [{"system": "s"}, {"history": [["h", "i"]]}])
@pytest.mark.parametrize("prompt", ["q", ASKED])
def test_whole_conversations_beside_a_system_text_or_a_history_hold_their_prompt_once(beside, prompt, write) -> None:
    row = {"prompt": prompt, "chosen": [*ASKED, *YES], "rejected": [*ASKED, *NO]} | beside
    before = (
        [{"role": "system", "content": "s"}]
        if "system" in beside
        else [{"role": "user", "content": "h"}, {"role": "assistant", "content": "i"}]
    )
    assert read(write([row])) == ([*before, *ASKED], YES, NO)


def test_candidates_that_are_conversations_repeat_a_prompt_behind_a_system_text(write) -> None:
    row = {"prompt": "q", "system": "s", "candidates": [[*ASKED, *YES], [*ASKED, *NO]], "candidate_scores": [1, 0]}
    assert read(write([row])) == ([{"role": "system", "content": "s"}, *ASKED], YES, NO)


@pytest.mark.parametrize("name", ["messages", "conversations"])
@pytest.mark.parametrize("form", ["ours", "ShareGPT", "JSON", "texts"])
def test_a_conversation_beside_a_prompt_is_counted_where_it_stands_in_no_text(name, form, write) -> None:
    def turns(text: str) -> object:
        sharegpt = [{"from": "human", "value": text}]
        ours = [{"role": "user", "content": text}]
        return {"ours": ours, "ShareGPT": sharegpt, "JSON": json.dumps(sharegpt), "texts": [text]}[form]

    rows = [PAIR | {name: turns("q")}, PAIR | {name: turns("something else")}]
    assert read_rows(write(rows))[0].unread == {name: 1}
    assert read_rows(write(rows, columns={name: None}))[0].unread == {}


def test_a_conversation_of_no_known_form_without_a_prompt_is_asked_for(write) -> None:
    with pytest.raises(ValueError, match=r"row 1 has no prompt and text in messages: name the prompt"):
        read(write([SIDES | {"messages": ["why", "not"]}]))
    whole = {"chosen": [*ASKED, *YES], "rejected": [*ASKED, *NO], "messages": ["other"]}
    assert read_rows(write([whole]))[0].unread == {"messages": 1}


@pytest.mark.parametrize("name", ["dialogue", "Question", "TEXT", "user_input"])
def test_a_question_under_another_common_name_is_asked_for_in_any_case(name, write) -> None:
    with pytest.raises(ValueError, match=f"has no prompt and text in {name}"):
        read(write([SIDES | {name: "why"}]))


def test_a_context_that_only_an_answer_says_is_counted_beside_a_prompt(write) -> None:
    row = {"prompt": "which colour?", "context": "the sky is blue", "chosen": "the sky is blue", "rejected": "red"}
    assert read_rows(write([row]))[0].unread == {"context": 1}


def test_a_whole_conversation_beside_its_answers_is_the_prompt_up_to_the_last_turn(write) -> None:
    whole = [*ASKED, {"role": "assistant", "content": "a"}]
    assert read(write([SIDES | {"messages": whole}])) == (ASKED, YES, NO)
    spaced = [*ASKED, {"role": "assistant", "content": " a\n"}]
    assert read(write([SIDES | {"messages": spaced}])) == (ASKED, YES, NO)
    parts = [*ASKED, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]
    assert read(write([{"chosen": YES, "rejected": NO, "messages": parts}])) == (ASKED, YES, NO)
    candidates = {"candidates": ["b", "a"], "candidate_scores": [0, 1]}
    assert read(write([candidates | {"messages": whole}])) == (ASKED, YES, NO)
    begun = [*ASKED, {"role": "assistant", "content": "well"}]
    assert read(write([SIDES | {"messages": begun}])) == (begun, YES, NO)


@pytest.mark.parametrize("asked", [{"prompt": "q"}, {"messages": ASKED}, {"conversations": ASKED}])
def test_answers_of_the_role_model_are_the_assistants_whatever_they_answer(asked, write) -> None:
    yes, no = ([{"role": "model", "content": text}] for text in ("a", "b"))
    assert read(write([asked | {"chosen": yes, "rejected": no}])) == (ASKED, yes, no)
    listed = {"candidates": [no, yes], "candidate_scores": [0, 1]}
    assert read(write([asked | listed])) == (ASKED, yes, no)


def test_a_history_that_answers_repeat_stands_once(write) -> None:
    before = [{"role": "user", "content": "h"}, {"role": "assistant", "content": "i"}]
    whole = {"chosen": [*before, *ASKED, *YES], "rejected": [*before, *ASKED, *NO]}
    for prompt in ({"prompt": "q"}, {}):
        assert read(write([prompt | {"history": [["h", "i"]]} | whole])) == ([*before, *ASKED], YES, NO)
    alone = {"chosen": [*ASKED, *YES], "rejected": [*ASKED, *NO], "history": [["h", "i"]]}
    assert read(write([alone])) == ([*before, *ASKED], YES, NO)


def test_candidates_answer_a_conversation_and_may_stand_as_text(write) -> None:
    row = {"messages": ASKED, "candidates": json.dumps(["a", "b"]), "candidate_scores": [1, 0]}
    assert read(write([row])) == (ASKED, YES, NO)


def test_a_conversation_with_a_call_that_is_the_prompt_is_not_called_left_out(write) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}]
    assert read_rows(write([{"chosen": "a", "rejected": "b", "conversations": turns}]))[0].unread == {}
