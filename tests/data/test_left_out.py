"""Every text of a row is written by the template, or refused, or said to be left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from template_families import FAMILIES, tokenizer_of
from test_turns import assistant, tokenised, user

from iwpo_fast.data import read_rows
from iwpo_fast.data.context import token_ids
from iwpo_fast.data.tokenise import unwritten

ROW = {"prompt": [user("what is the sky")], "chosen": [assistant("blue")], "rejected": [assistant("green")]}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
WITH_CALL = [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
WRITES_CALLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def lines(ledger: Any) -> str:
    return "\n".join(ledger.lines())


@pytest.mark.parametrize("family", ["deepseek-r1", "mistral"])
@pytest.mark.parametrize("role", ["developer", "tool", "system"])
def test_a_role_that_the_template_drops_is_refused(family, role, write) -> None:
    tokenizer = tokenizer_of(family)
    if family == "deepseek-r1":
        tokenizer.chat_template = FAMILIES[family].replace("{% else %}", "{% elif m.role == 'assistant' %}")
    told = ROW | {"prompt": [{"role": role, "content": "in capitals"}, *ROW["prompt"]]}
    with pytest.raises(ValueError, match=rf"row 2 \(the first of 2\) has .* of messages of the role {role}: set data"):
        tokenised(write, tokenizer, ROW, told, told)
    _, ledger = tokenised(write, tokenizer, ROW, told, told, on_text_left_out="say")
    assert f"leaves out the content of messages of the role {role}: 2 rows" in lines(ledger)


@pytest.mark.parametrize("family", ["qwen2.5", "llama3", "gemma", "phi"])
def test_reasoning_of_an_answer_that_the_template_does_not_write_is_refused(family, write) -> None:
    thought = ROW | {"chosen": [assistant("blue", reasoning_content="first I look")]}
    with pytest.raises(ValueError, match=r"row 1 has .* the reasoning_content of the answer: set data"):
        tokenised(write, tokenizer_of(family), thought)


def test_reasoning_that_the_template_writes_is_trained_and_that_of_earlier_turns_said_to_be_left_out(write) -> None:
    tokenizer = tokenizer_of("qwen3")
    earlier = [user("look"), assistant("well", reasoning_content="the grass"), *ROW["prompt"]]
    thought = {"prompt": earlier, "chosen": [assistant("blue", reasoning_content="first I look")]}
    pairs, ledger = tokenised(write, tokenizer, ROW | thought)
    assert tokenizer.decode(pairs.chosen[0]) == "<think>\nfirst I look\n</think>\n\nblue<|im_end|>\n"
    assert "the chat template leaves out the reasoning_content of earlier turns: 1 rows" in lines(ledger)


@pytest.mark.parametrize("family", ["deepseek-r1", "qwen3"])
def test_reasoning_inside_a_content_that_the_template_cuts_off_is_refused(family, write) -> None:
    thought = ROW | {"chosen": [assistant("<think>\nfirst I look\n</think>\n\nblue")]}
    with pytest.raises(ValueError, match=r"row 1 has .* the reasoning before </think> in the answer"):
        tokenised(write, tokenizer_of(family), thought)
    pairs, _ = tokenised(write, tokenizer_of("qwen2.5"), thought)
    assert "first I look" in tokenizer_of("qwen2.5").decode(pairs.chosen[0])


@pytest.mark.parametrize("family", ["qwen2.5", "llama3", "gemma", "glm"])
def test_a_tool_call_that_the_template_does_not_write_is_refused_with_its_tools(family, write) -> None:
    tokenizer = tokenizer_of(family)
    tokenizer.chat_template = tokenizer.chat_template.replace("m.content", "(m.content or '')")
    with pytest.raises(ValueError, match=r"row 1 has .* tools and the tool_calls of the answer: set data"):
        tokenised(write, tokenizer, ROW | {"chosen": WITH_CALL, "tools": TOOLS})


def test_tools_alone_that_the_template_does_not_write_are_said_to_be_left_out(write) -> None:
    _, ledger = tokenised(write, tokenizer_of("llama3"), ROW, ROW | {"tools": TOOLS}, ROW | {"tools": TOOLS})
    assert "the chat template leaves out tools: 2 rows" in lines(ledger)


@pytest.mark.parametrize(
    "stored", ["object", "arguments as JSON", "calls as JSON", "each call as JSON", "messages as JSON", "tools as JSON"]
)
def test_tool_calls_and_tools_are_written_however_they_are_stored(stored, write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = WRITES_CALLS
    call, tools = dict(CALL), TOOLS
    if stored == "arguments as JSON":
        call = CALL | {"function": CALL["function"] | {"arguments": json.dumps(CALL["function"]["arguments"])}}
    forms = {"calls as JSON": json.dumps([call]), "each call as JSON": [json.dumps(call)]}
    calls: Any = forms.get(stored, [call])
    chosen: Any = [WITH_CALL[0] | {"tool_calls": calls}]
    chosen = json.dumps(chosen) if stored == "messages as JSON" else chosen
    given: Any = [json.dumps(tool) for tool in tools] if stored == "tools as JSON" else tools
    pairs, ledger = tokenised(write, tokenizer, ROW | {"chosen": chosen, "tools": given})
    assert "look" in tokenizer.decode(pairs.chosen[0]) and "sky" in tokenizer.decode(pairs.chosen[0])
    assert '"name": "look"' in tokenizer.decode(pairs.prompt[0])
    assert not ledger.left_out


@pytest.mark.parametrize("calls", ["look(at='sky')", ["look"], {"name": "look"}, 3])
def test_tool_calls_of_no_known_form_are_refused(calls, write) -> None:
    with pytest.raises(ValueError, match="row 1 has tool_calls in chosen that are no list of calls: make them"):
        read_rows(write([ROW | {"chosen": [assistant("", tool_calls=calls)]}]))


def test_the_name_of_a_call_under_another_key_is_refused_where_the_template_does_not_write_it(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
        "{% for call in m.tool_calls or [] %}{{ call.name }} {{ call.arguments | tojson }}{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = ROW | {"chosen": [assistant("", tool_calls=[{"function": "look", "arguments": {"at": "sky"}}])]}
    with pytest.raises(ValueError, match="the tool_calls of the answer"):
        tokenised(write, tokenizer, row)


def test_arguments_that_the_template_drops_are_refused_where_it_writes_the_name(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = WRITES_CALLS.replace("{{ call.function.arguments | tojson }}", "")
    with pytest.raises(ValueError, match="the tool_calls of the answer"):
        tokenised(write, tokenizer, ROW | {"chosen": WITH_CALL, "tools": TOOLS})


def test_any_other_key_of_a_message_is_said_to_be_left_out(write) -> None:
    named = ROW | {"prompt": [user("what is the sky") | {"name": "ann", "id": "7"}]}
    _, ledger = tokenised(write, tokenizer_of("gemma"), named, ROW)
    assert ledger.left_out == {"the name of messages of the role user": 1}


@pytest.mark.parametrize("family", ["qwen2.5", "llama3", "gemma", "parts", "vision"])
@pytest.mark.parametrize("form", ["strings", "parts"])
def test_contents_come_out_as_text_in_whatever_form_they_are(family, form, write) -> None:
    tokenizer = tokenizer_of(family)

    def in_form(message: dict[str, Any]) -> dict[str, Any]:
        halves = (message["content"][:2], message["content"][2:])
        return message | {"content": [{"type": "text", "text": half} for half in halves]}

    row = ROW if form == "strings" else {name: [in_form(m) for m in messages] for name, messages in ROW.items()}
    pairs, ledger = tokenised(write, tokenizer, row)
    text = tokenizer.decode([*pairs.prompt[0], *token_ids(pairs.chosen[0])])
    assert "what is the sky" in text and "blue" in text and "type" not in text
    assert not ledger.left_out


def test_templates_are_asked_once_for_a_kind_of_message_and_not_for_every_row(write, monkeypatch) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    asked = []
    original = type(tokenizer).apply_chat_template
    monkeypatch.setattr(
        type(tokenizer), "apply_chat_template", lambda self, c, **k: asked.append(len(c)) or original(self, c, **k)
    )
    tokenised(write, tokenizer, ROW)
    once = len(asked)
    asked.clear()
    tokenised(write, tokenizer, *[ROW | {"chosen": [assistant(f"blue {i}")]} for i in range(200)])
    assert len(asked) == once


@pytest.mark.parametrize("column", ["images", "audio", "video"])
def test_a_column_of_pictures_or_sound_is_refused(column, write) -> None:
    with pytest.raises(ValueError, match=rf"has the column {column}, and only text is trained on"):
        tokenised(write, tokenizer_of("vision"), ROW | {column: ["x"]})


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "video"])
def test_a_part_that_is_no_text_is_refused(kind, write) -> None:
    seen = ROW | {
        "prompt": [{"role": "user", "content": [{"type": kind, kind: "x"}, {"type": "text", "text": "what"}]}]
    }
    with pytest.raises(ValueError, match=rf"row 2 has a part of the type {kind} in prompt, and only text"):
        tokenised(write, tokenizer_of("vision"), ROW, seen)


FIRST_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' or loop.first %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALLS_OR_CONTENT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}{{ m.tool_calls[0].function.name }} "
    "{{ m.tool_calls[0].function.arguments | tojson }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = {"role": "system", "content": "in capitals"}
ASIDE = [{"role": "assistant", "content": "I look", "tool_calls": [CALL]}]
TWO_CALLS = [{"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}]


@pytest.mark.parametrize(
    ("template", "written", "lost"),
    [
        (
            FIRST_SYSTEM,
            {"prompt": [SYSTEM, user("look")]},
            {"prompt": [user("look"), assistant("well"), SYSTEM, user("so")]},
        ),
        (CALLS_OR_CONTENT, {"chosen": WITH_CALL}, {"chosen": ASIDE}),
        (CALLS_OR_CONTENT, {"chosen": WITH_CALL}, {"chosen": TWO_CALLS}),
        (
            FAMILIES["mistral"],
            {"prompt": [SYSTEM | {"content": " "}, user("look")]},
            {"prompt": [SYSTEM, user("look")]},
        ),
    ],
    ids=["a later system message", "a text beside a call", "a second call", "a text behind a blank one"],
)
def test_what_is_written_in_one_place_hides_nothing_that_is_not_in_another(template, written, lost, write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=r"row 2 has what the chat template does not write"):
        tokenised(write, tokenizer, ROW | written, ROW | lost)


def test_a_part_of_another_type_is_looked_at_by_itself(write) -> None:
    thought = [{"type": "thinking", "thinking": "first I look"}, {"type": "text", "text": "blue"}]
    with pytest.raises(ValueError, match=r"row 2 has what the chat template does not write"):
        tokenised(write, tokenizer_of("qwen2.5"), ROW, ROW | {"chosen": [assistant(thought)]})


def test_descriptions_of_tools_that_the_template_does_not_write_are_said_to_be_left_out(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    place = {"type": "string", "description": "where"}
    tool = {"name": "look", "description": "looks", "parameters": {"properties": {"at": place}}}
    described = ROW | {"tools": [{"type": "function", "function": tool}]}
    tokenizer.chat_template = WRITES_CALLS
    assert not tokenised(write, tokenizer, described)[1].left_out
    tokenizer.chat_template = WRITES_CALLS.replace("tools | tojson", "tools[0].function.name")
    left_out = tokenised(write, tokenizer, described)[1].left_out
    assert left_out == {"descriptions of tools": 1, "parameters of tools": 1}


@pytest.mark.parametrize(
    ("template", "value", "acts"),
    [
        ("{% if thinking and add_generation_prompt %}<|think|>{% endif %}", True, True),
        ("{% if thinking and add_generation_prompt %}<|think|>{% endif %}", False, True),
        ("{% if add_generation_prompt and thinking == 'long' %}<|think|>{% endif %}", "long", True),
        ("{% if add_generation_prompt %}{{ thinking }}{% endif %}", "a text", True),
        ("{% if add_generation_prompt and thinking is defined and not thinking %}<|no|>{% endif %}", False, True),
        ("", True, False),
        ("", "a text", False),
    ],
)
def test_an_argument_that_changes_nothing_is_said_to_be_left_out(template, value, acts, write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = FAMILIES["qwen2.5"] + template
    row = ROW | {"chat_template_kwargs": {"thinking": value}}
    left_out = tokenised(write, tokenizer, row, ROW)[1].left_out
    assert left_out == ({} if acts else {"thinking of chat_template_kwargs": 1})


def test_a_function_call_is_the_call_of_a_tool_and_its_answer_the_tools(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = WRITES_CALLS
    call = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": "sky"}'}}
    told = {"role": "function", "name": "look", "content": "it is blue"}
    pairs, _ = tokenised(write, tokenizer, ROW | {"prompt": [*ROW["prompt"], call, told]})
    prompt = tokenizer.decode(pairs.prompt[0])
    assert "assistant\nlook" in prompt and "sky" in prompt and "<|im_start|>tool\nit is blue" in prompt


def test_parts_of_a_content_may_stand_as_json_text(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    stored = ROW | {"chosen": [assistant(json.dumps([{"type": "text", "text": "blue"}]))]}
    assert tokenizer.decode(tokenised(write, tokenizer, stored)[0].chosen[0]) == "blue<|im_end|>\n"
    picture = ROW | {"chosen": [assistant(json.dumps([{"type": "image", "url": "x"}]))]}
    with pytest.raises(ValueError, match="part of the type image"):
        tokenised(write, tokenizer, picture)
    listed = '[{"type": "circle", "radius": 1}]'
    kept = ROW | {"chosen": [assistant(listed)]}
    assert listed in tokenizer.decode(tokenised(write, tokenizer, kept)[0].chosen[0])


WRITES_NAMES = WRITES_CALLS.replace("{{ call.function.arguments | tojson }}", "")


@pytest.mark.parametrize("arguments", [{"x": 3}, "city: Paris", {"sky": True}])
@pytest.mark.parametrize("first", [True, False])
def test_arguments_of_any_kind_that_the_template_drops_are_refused_whatever_row_is_first(
    arguments, first, write
) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = WRITES_NAMES

    def called(given: Any) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "look", "arguments": given}}
        return ROW | {"chosen": [{"role": "assistant", "content": None, "tool_calls": [call]}], "tools": TOOLS}

    rows = [called({}), called(arguments)]
    with pytest.raises(ValueError, match=f"row {1 if first else 2} has .* the tool_calls of the answer"):
        tokenised(write, tokenizer, *(reversed(rows) if first else rows))


@pytest.mark.parametrize("family", ["deepseek-r1", "qwen3"])
def test_reasoning_in_parts_of_a_content_is_refused_as_in_a_text(family, write) -> None:
    thought = [{"type": "text", "text": "<think>\nfirst I look\n</think>\n\nblue"}]
    with pytest.raises(ValueError, match=r"the reasoning before </think> in the answer"):
        tokenised(write, tokenizer_of(family), ROW | {"chosen": [assistant(thought)]})


def test_a_question_that_is_not_the_last_is_looked_at_by_itself(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = (
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% if loop.index0 >= ns.last %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    earlier = ROW | {"prompt": [user("first"), assistant("well"), user("second")]}
    with pytest.raises(ValueError, match=r"row 2 has .* the content of messages of the role user"):
        tokenised(write, tokenizer, ROW, earlier)


def test_the_form_of_contents_does_not_depend_on_the_first_row(write) -> None:
    tokenizer = tokenizer_of("mistral")
    parts = [[{"type": "text", "text": text}] for text in ("what is the sky", "blue", "green")]
    row = {"prompt": [user(parts[0])], "chosen": [assistant(parts[1])], "rejected": [assistant(parts[2])]}
    told = ROW | {"prompt": [SYSTEM, *ROW["prompt"]]}
    pairs, _ = tokenised(write, tokenizer, told, row, on_text_left_out="say")
    assert "type" not in tokenizer.decode(token_ids(pairs.chosen[1]))


def test_tools_and_arguments_of_plain_text_are_said_to_be_left_out(write) -> None:
    plain = {"prompt": "what", "chosen": " blue", "rejected": " green"}
    _, ledger = tokenised(write, tokenizer_of("qwen2.5"), plain | {"tools": TOOLS}, plain)
    assert "leaves out tools and chat_template_kwargs, because these rows are plain text: 1 rows" in lines(ledger)


def test_the_name_of_an_argument_is_said_in_letters(write) -> None:
    row = ROW | {"chat_template_kwargs": {"mo\x1b[31mod": "calm"}}
    _, ledger = tokenised(write, tokenizer_of("qwen2.5"), row)
    assert r"leaves out mo\x1b[31mod of chat_template_kwargs: 1 rows" in lines(ledger)


def test_texts_in_documents_that_the_template_drops_are_said_to_be_left_out(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = "{% for d in documents or [] %}{{ d.title }}{% endfor %}" + FAMILIES["qwen2.5"]
    row = ROW | {"chat_template_kwargs": {"documents": [{"title": "t", "text": "lost"}]}}
    assert tokenised(write, tokenizer, row)[1].left_out == {"documents of chat_template_kwargs": 1}


def test_arguments_that_are_others_in_every_row_are_tried_for_a_few_of_them(write, monkeypatch) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = "{{ today }}{% for d in documents or [] %}{{ d.title }}{% endfor %}" + FAMILIES["qwen2.5"]
    asked = []
    original = type(tokenizer).apply_chat_template
    monkeypatch.setattr(
        type(tokenizer), "apply_chat_template", lambda self, c, **k: asked.append(len(c)) or original(self, c, **k)
    )

    def rows(count: int) -> list[dict[str, Any]]:
        documents = [[{"title": f"t {i}"} | ({"text": f"lost {i}"} if i == count - 1 else {})] for i in range(count)]
        return [ROW | {"chat_template_kwargs": {"today": f"day {i}", "documents": documents[i]}} for i in range(count)]

    config = write(rows(200))
    found = read_rows(config)[0]
    left = unwritten(found, tokenizer, config)
    assert left == {"documents of chat_template_kwargs": 1}
    assert len(asked) < 200  # fewer than rows


@pytest.mark.parametrize("value", [True, "look", ["look"]], ids=str)
def test_a_key_tools_of_a_message_is_no_column_of_tools(value, write) -> None:
    row = ROW | {"chosen": [assistant("blue", tools=value)]}
    _, ledger = tokenised(write, tokenizer_of("qwen2.5"), row, on_text_left_out="say")
    said = value is not True  # which is no text
    assert ("leaves out the tools of messages of the role assistant: 1 rows" in lines(ledger)) is said
