"""Only what the assistant wrote is trained, whatever the template."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from template_families import FAMILIES, tokenizer_of

from iwpo_fast.data import Ledger, Pairs, read_rows, tokenise
from iwpo_fast.data.context import as_context, is_trained, token_ids, trained_lengths
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.turns import inside


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | more


TURNS = {
    "prompt": [user("what is the sky")],
    "chosen": [assistant("blue"), user("the grass?"), assistant("green")],
    "rejected": [assistant("today")],
}
ENDS = {
    "qwen2.5": ("blue<|im_end|>\n", "green<|im_end|>\n"),
    "qwen3": ("blue<|im_end|>\n", "<think>\n\n</think>\n\ngreen<|im_end|>\n"),
    "llama3": ("blue<|eot_id|>", "green<|eot_id|>"),
    "gemma": ("blue<end_of_turn>\n", "green<end_of_turn>\n"),
    "mistral": (" blue</s>", " green</s>"),
    "phi": ("blue<|end|>\n", "green<|end|>\n</s>"),
    "glm": ("blue", "green"),
    "gpt-oss": ("<|channel|>final<|message|>blue", "<|channel|>final<|message|>green<|return|>"),
    "deepseek-r1": ("blue</s>", "green</s>"),
    "marks": ("blue<|im_end|>", "green<|im_end|>"),
    "parts": ("blue<|im_end|>\n", "green<|im_end|>\n"),
}
"""What is trained of the two turns of the chosen answer."""


def tokenised(write: Any, tokenizer: Any, *rows: dict[str, Any], **settings: Any) -> tuple[Pairs, Ledger]:
    config = write(list(rows), **settings)
    return tokenise(read_rows(config)[0], tokenizer, config)


@pytest.mark.parametrize("family", ENDS)
def test_of_an_answer_of_several_turns_the_assistants_tokens_are_trained_and_no_others(family, write) -> None:
    tokenizer = tokenizer_of(family)
    pairs, ledger = tokenised(write, tokenizer, TURNS)
    chosen, rejected = pairs.chosen[0], pairs.rejected[0]
    assert tokenizer.decode(chosen[is_trained(chosen)]) == "".join(ENDS[family])
    assert is_trained(rejected).all() and is_trained(pairs.prompt[0]).all()
    assert ledger.with_context == 1
    assert any("only the assistant's are trained: 1" in line for line in ledger.lines())
    everything, ledger = tokenised(write, tokenizer, TURNS, train_on="all")
    assert everything.chosen[0].tolist() == token_ids(chosen).tolist()
    assert "the grass?" in tokenizer.decode(everything.chosen[0]) and ledger.with_context == 0


def test_earlier_answers_of_a_tool_loop_are_context_no_more_than_their_tools(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    loop = [assistant("look"), {"role": "tool", "content": "sunny"}, assistant("sky")]
    pairs, _ = tokenised(write, tokenizer, TURNS | {"chosen": loop})
    chosen = pairs.chosen[0]
    assert tokenizer.decode(chosen[is_trained(chosen)]) == "look<|im_end|>\nsky<|im_end|>\n"
    assert "sunny" in tokenizer.decode(token_ids(chosen))


def test_an_answer_that_begins_with_the_users_turn_has_it_as_context(write) -> None:
    tokenizer = tokenizer_of("llama3")
    early = {"prompt": [user("hello"), assistant("today")], "chosen": [user("sky?"), assistant("blue")]}
    pairs, _ = tokenised(write, tokenizer, early | {"rejected": [user("grass?"), assistant("green")]})
    for side, text in ((pairs.chosen, "blue<|eot_id|>"), (pairs.rejected, "green<|eot_id|>")):
        assert tokenizer.decode(side[0][is_trained(side[0])]) == text
    assert tokenizer.decode(pairs.prompt[0]).endswith("today<|eot_id|>")


@pytest.mark.parametrize("role", ["user", "bot", "chosen"])
def test_an_answer_without_a_turn_of_the_assistant_is_named_with_its_roles(role, write) -> None:
    rows = [TURNS, TURNS | {"rejected": [{"role": role, "content": "again"}]}]
    with pytest.raises(
        ValueError, match=f"row 2 has an answer without a message of the assistant in rejected, whose roles are {role}:"
    ):
        tokenised(write, tokenizer_of("qwen2.5"), *rows)
    assert len(tokenised(write, tokenizer_of("qwen2.5"), *rows, train_on="all")[0]) == 2


def test_an_answer_whose_only_turn_is_left_out_of_training_is_counted(write) -> None:
    rows = [TURNS, TURNS | {"rejected": [assistant("again") | {"weight": 0}]}]
    _, ledger = tokenised(write, tokenizer_of("qwen2.5"), *rows)
    assert (ledger.kept, ledger.dropped_empty) == (1, 1)
    assert "1 with a completion of which no token is trained" in "\n".join(ledger.lines())


def test_reasoning_of_a_turn_that_the_prompt_begins_is_kept_or_refused(write) -> None:
    begun = [user("look"), assistant("Sure, ", reasoning_content="first I look")]
    row = {"prompt": begun, "chosen": [assistant("blue")], "rejected": [assistant("green")]}
    tokenizer = tokenizer_of("qwen3")
    for answer in ({}, {"reasoning_content": None}, {"reasoning_content": ""}, {"reasoning": "first I look"}):
        pairs, ledger = tokenised(write, tokenizer, row | {"chosen": [assistant("blue", **answer)]})
        assert tokenizer.decode(pairs.prompt[0]).endswith("<think>\nfirst I look\n</think>\n\nSure,"), answer
        assert tokenizer.decode(pairs.chosen[0]) == " blue<|im_end|>\n" and not ledger.left_out
    for other in ({"reasoning_content": "again"}, {"thinking": "again"}):
        with pytest.raises(
            ValueError, match=r"row 1 has reasoning both in the turn .* its prompt begins and in chosen"
        ):
            tokenised(write, tokenizer, row | {"chosen": [assistant("blue", **other)]})


def test_reasoning_in_an_earlier_turn_of_an_answer_is_said_with_the_number_of_rows(write) -> None:
    turns = [assistant("well", reasoning_content="the grass"), user("and?"), assistant("blue")]
    row = {"prompt": [user("look")], "chosen": turns, "rejected": [assistant("green")]}
    _, ledger = tokenised(write, tokenizer_of("qwen3"), row, row, row | {"chosen": [assistant("blue")]})
    assert "the chat template leaves out the reasoning_content of earlier turns: 2 rows" in "\n".join(ledger.lines())


def test_a_template_that_hides_its_turns_is_refused_in_a_sentence(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = FAMILIES["qwen2.5"].replace(
        "{{ m.content }}", "{{ messages | length }} {{ m.content * 2 }}"
    )
    with pytest.raises(ValueError, match=r"row 1 has an answer of several turns.*generation.*data\.train_on to all"):
        tokenised(write, tokenizer, TURNS)
    assert len(tokenised(write, tokenizer, TURNS, train_on="all")[0]) == 1


@pytest.mark.parametrize("family", ["llama3", "qwen2.5", "mistral", "deepseek-r1"])
def test_a_prompt_that_ends_with_the_beginning_of_an_answer_is_continued(family, write) -> None:
    tokenizer = tokenizer_of(family)
    prompt = [user("what is the sky"), assistant("Sure, ")]
    pairs, _ = tokenised(write, tokenizer, TURNS | {"prompt": prompt, "chosen": [assistant("blue")]})
    whole = [*prompt[:1], assistant("Sure, blue")]
    text = tokenizer.apply_chat_template(whole, tokenize=False)
    assert tokenizer.decode([*pairs.prompt[0], *pairs.chosen[0]]) == text
    assert tokenizer.decode(pairs.prompt[0]).rstrip().endswith("Sure,")
    assert tokenizer.decode(pairs.chosen[0]).lstrip().startswith("blue")


def test_what_the_user_said_stays_context_where_a_template_writes_it_in_another_way_once_answered(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    body = "{{ m.content }}{% if loop.last and m.role == 'user' %} think{% endif %}"
    tokenizer.chat_template = FAMILIES["qwen2.5"].replace("{{ m.content }}", body)
    pairs, ledger = tokenised(write, tokenizer, TURNS | {"chosen": [assistant("blue")]})
    assert tokenizer.decode(pairs.prompt[0]).endswith("the sky")
    chosen = pairs.chosen[0]
    assert tokenizer.decode(chosen[is_trained(chosen)]) == "blue<|im_end|>\n"
    assert ledger.with_context == 1 and len(ledger.seams) == 1


def test_context_keeps_its_ids_and_counts_for_nothing() -> None:
    ids, trained = np.array([0, 7, 9]), np.array([True, False, False])
    stored = as_context(ids, trained)
    assert stored.dtype == np.int32
    assert token_ids(stored).tolist() == ids.tolist()
    assert is_trained(stored).tolist() == trained.tolist()
    assert trained_lengths(Ragged.from_rows([stored, [], [1, 2], ~ids])).tolist() == [1, 0, 2, 0]


def test_a_token_across_the_edge_of_a_turn_is_not_inside() -> None:
    offsets = [(0, 2), (2, 4), (4, 6), (7, 9)]
    assert inside([(2, 5)], offsets).tolist() == [False, True, False, False]
    assert inside([(7, 9)], offsets).tolist() == [False] * 4  # the white space before the last is its own
    assert inside([(6, 9)], offsets).tolist() == [False, False, False, True]


def test_generation_marks_hold_for_answers_of_one_turn_too(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "<|im_end|>{% endgeneration %}\nEND OF TURN\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    pairs, _ = tokenised(
        write, tokenizer, {"prompt": [user("q")], "chosen": [assistant("yes")], "rejected": [assistant("no")]}
    )
    stored = pairs.chosen[0]
    assert tokenizer.decode(token_ids(stored)) == "yes<|im_end|>END OF TURN\n"
    assert tokenizer.decode(stored[is_trained(stored)]) == "yes<|im_end|>"


DIALOGUE = "\n\nHuman: what is the sky\n\nAssistant:"


@pytest.mark.parametrize(
    ("answer", "own"),
    [
        (" blue\n\nHuman: the grass?", " blue"),
        (" blue\n\nHuman: the grass?\n\nAssistant: green", " blue green</s>"),
        (" blue", " blue</s>"),
    ],
)
def test_of_a_dialogue_in_text_the_humans_turns_are_context(answer, own, write, tokenizer) -> None:
    row = {"prompt": DIALOGUE, "chosen": answer, "rejected": " today"}
    pairs, ledger = tokenised(write, tokenizer, row)
    chosen = pairs.chosen[0]
    assert tokenizer.decode(chosen[is_trained(chosen)]) == own
    assert tokenizer.decode(token_ids(chosen)) == f"{answer}</s>"
    assert ledger.with_context == (answer != " blue")
    everything, _ = tokenised(write, tokenizer, row, train_on="all")
    assert np.array_equal(everything.chosen[0], token_ids(chosen))


def test_a_human_in_an_answer_to_no_dialogue_is_trained(write, tokenizer) -> None:
    row = {"prompt": "write a dialogue", "chosen": "\n\nHuman: hi\n\nAssistant: ho", "rejected": "no"}
    assert is_trained(tokenised(write, tokenizer, row)[0].chosen[0]).all()


@pytest.mark.parametrize("family", ["qwen2.5", "llama3", "marks"])
def test_an_assistants_turn_of_weight_0_is_context(family, write) -> None:
    tokenizer = tokenizer_of(family)
    first, second = TURNS["chosen"][0], TURNS["chosen"][2]
    silent = TURNS | {"chosen": [first | {"weight": 0}, TURNS["chosen"][1], second | {"weight": 1}]}
    pairs, ledger = tokenised(write, tokenizer, silent)
    chosen = pairs.chosen[0]
    assert tokenizer.decode(chosen[is_trained(chosen)]) == ENDS[family][1]
    assert not ledger.left_out


@pytest.mark.parametrize("family", ["qwen2.5", "llama3", "gemma"])
def test_where_one_answer_begins_with_the_users_turn_neither_has_its_header_trained(family, write) -> None:
    row = {
        "prompt": [user("what")],
        "chosen": [user("more"), assistant("blue")],
        "rejected": [assistant("green")],
    }
    tokenizer = tokenizer_of(family)
    pairs, _ = tokenised(write, tokenizer, row)
    for side, word in ((pairs.chosen[0], "blue"), (pairs.rejected[0], "green")):
        assert tokenizer.decode(side[is_trained(side)]).startswith(word)


def test_a_turn_that_says_train_false_is_context(write) -> None:
    tokenizer = tokenizer_of("qwen2.5")
    first, between, last = TURNS["chosen"]
    pairs, ledger = tokenised(write, tokenizer, TURNS | {"chosen": [first | {"train": False}, between, last]})
    chosen = pairs.chosen[0]
    assert tokenizer.decode(chosen[is_trained(chosen)]) == "green<|im_end|>\n" and not ledger.left_out


@pytest.mark.parametrize("before", ["\n\nHuman: a\n\nHuman: more", "Be nice.\n\nHuman: hi"])
def test_humans_turns_are_context_behind_any_dialogue(before, write, tokenizer) -> None:
    row = {"prompt": f"{before}\n\nAssistant:", "chosen": " blue\n\nHuman: thanks", "rejected": " no"}
    chosen = tokenised(write, tokenizer, row)[0].chosen[0]
    assert tokenizer.decode(chosen[is_trained(chosen)]) == " blue"
