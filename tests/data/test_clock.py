"""A chat template that reads the clock sees the moment at which the run began, on whatever day the run goes on."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import DataConfig
from iwpo_fast.data.clock import clock_at, clock_line, moment, shown
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.token_cache import tokens_path
from iwpo_fast.data.tokenise import tokenise
from iwpo_fast.models.tiny import train_tokenizer

BODY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_sep|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
TEMPLATES = {
    "like Llama 3.2": (
        "{% if not date_string is defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}Today Date: {{ date_string }}\n",
        ["26 Nov 2026"],
        "Today Date: 26 Nov 2026",
    ),
    "like gpt-oss": (
        '{% macro system() %}Current date: {{ strftime_now("%Y-%m-%d") }}\n{% endmacro %}{{ system() }}',
        ["2026-11-26"],
        "Current date: 2026-11-26",
    ),
    "with a format of its own making": (
        "{% set f = '%H' ~ 'h' %}At {{ strftime_now(f) }}\n",
        ["2026-11-26T23:59:58"],
        "At 23h",
    ),
}


@pytest.fixture(params=TEMPLATES)
def case(request) -> tuple[PreTrainedTokenizerBase, list[str], str]:
    start, written, text = TEMPLATES[request.param]
    tokenizer = train_tokenizer(["Today Date: 26 Nov 2026 Current At h red user assistant"] * 3, 330)
    tokenizer.chat_template = start + BODY
    return tokenizer, written, text


def rows_of_one() -> Rows:
    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    texts = [said("user", "red")], [said("assistant", "red")], [said("assistant", "h")]
    return Rows("here", np.arange(1, 2), *texts)


def prompt_of(tokenizer: PreTrainedTokenizerBase, tmp_path) -> str:
    pairs, _ = tokenise(rows_of_one(), tokenizer, DataConfig("x", cache_dir=str(tmp_path)))
    return tokenizer.decode(pairs.prompt[0])


def test_a_template_sees_the_recorded_moment_alone(case, tmp_path) -> None:
    tokenizer, written, text = case
    with clock_at("2026-11-26T23:59:58"):
        assert text in prompt_of(tokenizer, tmp_path)
        assert shown(tokenizer) == written
        assert written[0] in str(clock_line(tokenizer))
        recorded = moment()
    with clock_at("2030-01-01T05:00:00"):
        assert text not in prompt_of(tokenizer, tmp_path)
        with clock_at(recorded):
            assert text in prompt_of(tokenizer, tmp_path)


def test_the_cache_is_found_by_what_is_written_and_not_by_the_second(case, tmp_path) -> None:
    tokenizer, written, _ = case
    config, paths = DataConfig("x", cache_dir=str(tmp_path)), []
    for at in ("2026-11-26T23:59:58", "2026-11-26T23:00:00", "2026-11-27T23:59:58"):
        with clock_at(at):
            paths.append(tokens_path(rows_of_one(), tokenizer, config))
    by_day = "T" not in written[0]
    assert (paths[0] == paths[1]) is by_day
    assert paths[2] not in paths[:2]


def test_a_template_without_a_clock_shows_nothing_and_the_clock_goes_on_afterwards(case) -> None:
    tokenizer = case[0]
    with clock_at("2001-01-01T00:00:00"), clock_at(None):
        assert moment() == "2001-01-01T00:00:00"
    assert datetime.fromisoformat(moment()).year >= 2026
    tokenizer.chat_template = BODY
    assert shown(tokenizer) == [] and clock_line(tokenizer) is None
