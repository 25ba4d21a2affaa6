from __future__ import annotations

import pytest

from iwpo_fast.data.ends import end_of_turn
from iwpo_fast.models.tiny import train_tokenizer

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "<|im_end|>"),
        (CHATML.replace("<|im_end|>", "  <|im_end|>"), "<|im_end|>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }} and <|im_end|>{% endfor %}", None),
        ("{{ raise_exception('never') }}", None),
        (None, None),
    ],
    ids=["chatml", "behind_white_space", "without_an_end", "behind_a_word", "refusing", "no_template"],
)
def test_the_end_of_a_turn_is_the_special_token_behind_the_answer(template, expected) -> None:
    tokenizer = train_tokenizer(["some text to learn from"] * 3, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    found = end_of_turn(tokenizer)
    assert (None if found is None else tokenizer.convert_ids_to_tokens(found)) == expected
