"""`data.as_chat`: plain text as conversations."""

from __future__ import annotations

import json

import pytest

from iwpo_fast.data import read_rows
from iwpo_fast.data.tokenise import tokenise

PLAIN = {"prompt": "q", "chosen": "a", "rejected": "b"}
CHAT = {
    "prompt": [{"role": "user", "content": "q"}],
    "chosen": [{"role": "assistant", "content": "a"}],
    "rejected": [{"role": "assistant", "content": "b"}],
}
DIALOGUE = {
    "chosen": "\n\nHuman: x\n\nAssistant: the y\n\nHuman: z \n\nAssistant: yes",
    "rejected": "\n\nHuman: x\n\nAssistant: the y\n\nHuman: z \n\nAssistant: no",
}
TOLD = "data.as_chat true puts it in"


def texts(rows) -> list[tuple]:
    return list(zip(rows.prompt, rows.chosen, rows.rejected, strict=True))


def read(config) -> list[tuple]:
    return texts(read_rows(config)[0])


@pytest.mark.parametrize("as_chat", [True, "auto"])
@pytest.mark.parametrize("rows", [[PLAIN, CHAT], [CHAT, PLAIN]])
def test_text_and_conversations_together_are_conversations_where_it_is_asked_for(as_chat, rows, write) -> None:
    assert read(write(rows, as_chat=as_chat)) == [tuple(CHAT.values())] * 2


@pytest.mark.parametrize("rows", [[PLAIN, CHAT], [CHAT, PLAIN], [CHAT, CHAT, PLAIN]])
def test_and_are_refused_where_it_is_not(rows, write) -> None:
    with pytest.raises(ValueError, match=rf"row {len(rows)} mixes .* or set data\.as_chat to true\.$"):
        read(write(rows))


def test_auto_asks_the_model_and_leaves_conversations(write, tokenizer, bos_tokenizer, tmp_path) -> None:
    for tokeniser, template in ((tokenizer, True), (bos_tokenizer, False)):
        if not template:
            tokeniser.chat_template = None
        config = write([PLAIN], as_chat="auto")
        pairs, ledger = tokenise(read_rows(config)[0], tokeniser, config)
        asked, expected = (True, [CHAT]) if template else (False, [PLAIN])
        same = write(expected, as_chat=False)
        assert tokenise(read_rows(same)[0], tokeniser, same)[0].token_fingerprint() == pairs.token_fingerprint()
        assert not any(TOLD in line for line in ledger.lines()), asked
    assert read(write([CHAT], as_chat="auto")) == [tuple(CHAT.values())]


def test_a_chat_model_with_plain_text_is_told_so(write, tokenizer) -> None:
    told = {}
    for name, template in (("with", tokenizer.chat_template), ("without", None)):
        tokenizer.chat_template = template
        config = write([PLAIN])
        told[name] = any(TOLD in line for line in tokenise(read_rows(config)[0], tokenizer, config)[1].lines())
    assert told == {"with": True, "without": False}


def test_a_dialogue_becomes_its_turns(write) -> None:
    said = [("user", "x"), ("assistant", "the y"), ("user", "z")]
    prompt = [{"role": role, "content": text} for role, text in said]
    answers = ([{"role": "assistant", "content": text}] for text in ("yes", "no"))
    assert read(write([DIALOGUE], as_chat=True)) == [(prompt, *answers)]


@pytest.mark.parametrize(
    "prompt",
    [
        "\n\nHuman: x\n\nHuman: y\n\nAssistant: z\n\nHuman: w\n\nAssistant:",
        "\n\nHuman: x\n\nAssistant: y\n\nAssistant:",
        "\n\nHuman: x",
        "Human: x\n\nAssistant:",
        "as\n\nHuman: x\n\nAssistant:",
    ],
)
def test_what_is_no_dialogue_of_turns_stays_one_message(prompt, write) -> None:
    assert read(write([PLAIN | {"prompt": prompt}], as_chat=True))[0][0] == [{"role": "user", "content": prompt}]


def test_evaluation_rows_are_conversations_where_training_rows_are(write, tmp_path) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps(PLAIN))
    config = write([CHAT, PLAIN], as_chat="auto", eval_path=str(tmp_path / "eval.jsonl"))
    held_out = read_rows(config)[1]
    assert held_out is not None and texts(held_out) == [tuple(CHAT.values())]


@pytest.mark.parametrize("before", ["", "\n\nHuman: Hello", "\n\nHuman: Hello\n\nAssistant: a\n\nAssistant: b"])
def test_later_turns_of_an_answer_in_hh_form_are_messages_of_their_own(before, write) -> None:
    row = {
        "prompt": f"{before}\n\nHuman: Is it?\n\nAssistant:",
        "chosen": " Yes.\n\nHuman: And so?\n\nAssistant: It is.",
        "rejected": " No.",
    }
    rows = read_rows(write([row], as_chat=True))[0]
    assert [(turn["role"], turn["content"]) for turn in rows.chosen[0]] == [
        ("assistant", "Yes."),
        ("user", "And so?"),
        ("assistant", "It is."),
    ]
    assert rows.rejected == [[{"role": "assistant", "content": "No."}]]


def test_a_turn_of_white_space_alone_stays_what_it_is(write) -> None:
    row = {"chosen": "\n\nHuman: x\n\nAssistant: ", "rejected": "\n\nHuman: x\n\nAssistant: y "}
    assert [answer[0]["content"] for answer in read(write([row], as_chat=True))[0][1:]] == [" ", "y"]
