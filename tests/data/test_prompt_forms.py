from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iwpo_fast.data.forms import PrefixMismatch, canonical, split_strings

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in [("user", "q"), ("assistant", "a"), ("assistant", "b")]
)
SYSTEM = {"role": "system", "content": "be brief"}

FORMS = {
    "explicit strings": ({"prompt": "q ", "chosen": "a", "rejected": "b"}, ("q ", "a", "b")),
    "explicit messages": ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, ([USER], [GOOD], [BAD])),
    "implicit strings": (
        {"chosen": "the sky is blue", "rejected": "the sky is black"},
        ("the sky is", " blue", " black"),
    ),
    "implicit messages": (
        {"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
        ([SYSTEM, USER], [GOOD], [BAD]),
    ),
    "HH dialogues": (
        {
            "chosen": "\n\nHuman: x\n\nAssistant: the y\n\nHuman: z\n\nAssistant: the a",
            "rejected": "\n\nHuman: x\n\nAssistant: the y\n\nHuman: z\n\nAssistant: the b",
        },
        ("\n\nHuman: x\n\nAssistant: the y\n\nHuman: z\n\nAssistant:", " the a", " the b"),
    ),
    "UltraFeedback binarised": (
        {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 8.0},
        ([USER], [GOOD], [BAD]),
    ),
    "prompt string and answers as messages": (
        {"prompt": "q", "chosen": [GOOD], "rejected": [BAD]},
        ([USER], [GOOD], [BAD]),
    ),
    "prompt messages and answers as strings": (
        {"prompt": [USER], "chosen": "a", "rejected": "b"},
        ([USER], [GOOD], [BAD]),
    ),
    "identical strings": ({"chosen": "so it is", "rejected": "so it is"}, ("so it", " is", " is")),
    "identical conversations": ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, ([USER], [GOOD], [GOOD])),
    "a conversation that goes on": (
        {"chosen": [USER, GOOD], "rejected": [USER, GOOD, USER, BAD]},
        ([USER], [GOOD], [GOOD, USER, BAD]),
    ),
    "null prompt": ({"prompt": None, "chosen": "say a", "rejected": "say b"}, ("say", " a", " b")),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_recognised(form) -> None:
    row, expected = FORMS[form]
    assert canonical(row) == expected


MISMATCHES = {
    "dialogues differ in their first turn": {
        "chosen": "\n\nHuman: x\n\nAssistant: a",
        "rejected": "\n\nHuman: y\n\nAssistant: b",
    },
    "conversations without a common message": {"chosen": [GOOD], "rejected": [BAD]},
    "prompt is not in the conversations": {"prompt": "other", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_completions_of_different_prompts_are_mismatches(case) -> None:
    with pytest.raises(PrefixMismatch):
        canonical(MISMATCHES[case])


ASKED, MORE = "\n\nHuman: x\n\nAssistant:", "\n\nHuman: z\n\nAssistant:"


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        (f"{ASKED} y{MORE} a", f"{ASKED} w{MORE} b", ASKED),
        (f"{ASKED} y{MORE} a", f"{ASKED} w", ASKED),
        (f"{ASKED} y{MORE} a", f"{ASKED} y", ASKED),
        (f"{ASKED} y{MORE} a{MORE} c", f"{ASKED} y{MORE} b", ASKED + " y" + MORE),
        (f"{ASKED} y\n\nHuman: z{MORE} a", f"{ASKED} y\n\nHuman: v{MORE} a", ASKED),
    ],
)
def test_dialogues_that_part_early_are_cut_where_they_part(chosen, rejected, prompt) -> None:
    row = {"chosen": chosen, "rejected": rejected}
    assert canonical(row) == (prompt, chosen.removeprefix(prompt), rejected.removeprefix(prompt))


BAD_ROWS = {
    "no chosen": ({"prompt": "q", "rejected": "b"}, "has no chosen"),
    "null rejected": ({"prompt": "q", "chosen": "b", "rejected": None}, "has no rejected"),
    "empty string": ({"prompt": "q", "chosen": "", "rejected": "b"}, "empty completion in chosen"),
    "empty list": ({"prompt": [USER], "chosen": [GOOD], "rejected": []}, "empty completion in rejected"),
    "message without content": (
        {"prompt": [USER], "chosen": [{"role": "assistant", "content": ""}], "rejected": [BAD]},
        "empty completion in chosen",
    ),
    "answer without text": ({"prompt": [USER], "chosen": "a", "rejected": ""}, "empty completion in rejected"),
    "empty HH answer": ({"chosen": "\n\nHuman: x\n\nAssistant:", "rejected": "\n\nHuman: x\n\nAssistant: b"}, "empty"),
    "number": ({"prompt": "q", "chosen": 3, "rejected": "b"}, "chosen of type int"),
    "mixed": ({"chosen": [USER, GOOD], "rejected": "b"}, "a string and a list"),
    "no role": ({"chosen": [{"content": "q"}, GOOD], "rejected": [USER, BAD]}, "without a role in chosen"),
    "prompt of no known type": ({"prompt": {"text": "q"}, "chosen": "a", "rejected": "b"}, "prompt of type dict"),
    "half a surrogate pair": ({"prompt": "q", "chosen": "\ud83d", "rejected": "b"}, "surrogate"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_what_is_wrong_with_a_row_is_said(case) -> None:
    row, expected = BAD_ROWS[case]
    with pytest.raises(ValueError, match=expected):
        canonical(row)


@pytest.mark.parametrize("content", [5, ["x"], {"a": 1}, [{"type": "text", "text": 5}]])
def test_a_content_of_no_known_kind_is_refused_in_every_place(content) -> None:
    strange = [{"role": "user", "content": content}]
    row = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
    for name in row:
        with pytest.raises(ValueError, match=f"has a message in {name} whose content is neither"):
            canonical(row | {name: strange})


def test_a_content_of_parts_is_taken() -> None:
    parts = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "q"}]}]
    assert canonical({"prompt": parts, "chosen": [GOOD], "rejected": [BAD]})[0] == parts


def test_a_message_with_only_a_tool_call_is_not_empty() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "search"}]}
    assert canonical({"prompt": [USER], "chosen": [call], "rejected": [BAD]})[1] == [call]


words = st.text(alphabet="ab '\n.é", min_size=1, max_size=12)


@pytest.mark.slow
@given(words, words, words)
@example("don'", "t", "x")
@example("the sky", "the sky is blue", "")
@example("e", "\u0301", "\u0300")
def test_an_implicit_prompt_loses_nothing_and_never_ends_inside_a_word(shared, chosen, rejected) -> None:
    chosen, rejected = shared + chosen, shared + rejected
    prompt, after_chosen, after_rejected = split_strings(chosen, rejected)
    assert prompt + after_chosen == chosen
    assert prompt + after_rejected == rejected
    assert after_chosen and after_rejected
    for after in (after_chosen, after_rejected):
        assert not (prompt[-1:].isalpha() and (after[0].isalpha() or after[0] in "'\u0301\u0300"))


def test_long_common_beginnings_are_found() -> None:
    shared = "word " * 20_000
    assert split_strings(shared + "yes", shared + "no") == (shared[:-1], " yes", " no")


def test_an_implicit_prompt_is_as_long_as_the_words_allow() -> None:
    assert split_strings("Q: 1+1?\nA: 2", "Q: 1+1?\nA: 3") == ("Q: 1+1?\nA:", " 2", " 3")
    assert split_strings("say (yes)", "say (no)") == ("say (", "yes)", "no)")


@pytest.mark.parametrize("prompt", ["And is it so? \n", "And is it so?"])
def test_a_repeated_prompt_is_cut_off_whatever_white_space_ends_it(prompt) -> None:
    row = {"prompt": prompt, "chosen": "And is it so? Yes.", "rejected": "And is it so? No."}
    assert canonical(row) == (prompt, " Yes.", " No.")


def test_a_repeated_message_may_have_other_keys() -> None:
    asked = {"role": "user", "content": "And is it so?"}
    yes, no = ({"role": "assistant", "content": text} for text in ("Yes.", "No."))
    row = {"prompt": [asked | {"id": "7"}], "chosen": [asked, yes], "rejected": [asked, no]}
    assert canonical(row) == ([asked | {"id": "7"}], [yes], [no])


def test_one_answer_that_repeats_a_dialogue_is_cut_where_the_other_is_not() -> None:
    dialogue = "\n\nHuman: why?\n\nAssistant:"
    row = {"prompt": dialogue, "chosen": dialogue + " so", "rejected": " no"}
    assert canonical(row) == (dialogue, " so", " no")


def test_texts_that_repeat_the_last_message_of_their_prompt_are_cut() -> None:
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "why is it so?"}]
    row = {"prompt": asked, "chosen": "why is it so? because", "rejected": "why is it so?\nno"}
    assert canonical(row) == (asked, *([{"role": "assistant", "content": text}] for text in ("because", "no")))
    short = row | {"prompt": [{"role": "user", "content": "why"}]}
    assert canonical(short)[1][0]["content"] == "why is it so? because"


def test_conversations_that_lack_only_the_system_message_of_their_prompt_repeat_it() -> None:
    asked = [{"role": "user", "content": "why"}]
    sides = [[{"role": "assistant", "content": text}] for text in ("so", "no")]
    prompt = [{"role": "system", "content": "s"}, *asked]
    row = {"prompt": prompt, "chosen": [*asked, *sides[0]], "rejected": [*asked, *sides[1]]}
    assert canonical(row) == (prompt, *sides)


def test_whole_conversations_with_a_system_message_that_the_prompt_lacks_keep_it_in_front() -> None:
    asked, system = {"role": "user", "content": "Is it?"}, {"role": "system", "content": "be brief"}
    sides = [[{"role": "assistant", "content": text}] for text in ("so", "no")]
    row = {"prompt": [asked], "chosen": [system, asked, *sides[0]], "rejected": [system, asked, *sides[1]]}
    assert canonical(row) == ([system, asked], *sides)


@pytest.mark.parametrize("content", ["Is it? ", [{"type": "text", "text": "Is it?"}]])
def test_a_prompt_is_recognised_whatever_the_form_of_its_content(content) -> None:
    asked = {"role": "user", "content": "Is it?"}
    sides = [[{"role": "assistant", "content": text}] for text in ("so", "no")]
    prompt = [{"role": "user", "content": content}]
    row = {"prompt": prompt, "chosen": [asked, *sides[0]], "rejected": [asked, *sides[1]]}
    assert canonical(row) == (prompt, *sides)
