"""A chat template that does not end, or writes without end, is stopped, and the row is named."""

from __future__ import annotations

import signal
import threading

import pytest

from iwpo_fast.data import bounded as limits
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data.bounded import TooMuch, bounded

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
WRITES = "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}"
TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ROW = {
    "prompt": [{"role": "user", "content": "the colour"}],
    "chosen": [{"role": "assistant", "content": "blue"}],
    "rejected": [{"role": "assistant", "content": "green"}],
}
SLOW = ROW | {"prompt": [{"role": "user", "content": "loop"}]}


@pytest.fixture(autouse=True)
def little(monkeypatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.3)


def use(tokenizer, template: str) -> None:
    tokenizer.chat_template = template


@pytest.mark.slow
@pytest.mark.parametrize("template", [LOOP, "{% macro f(x) %}{{ f(x) }}{% endmacro %}" + LOOP])
def test_a_template_that_does_not_end_is_stopped(template, write, tokenizer) -> None:
    use(tokenizer, template)
    with pytest.raises(ValueError, match=r"The chat template takes more than 0\.3 s or 1 GiB .*: give another\.$"):
        tokenise(read_rows(write([ROW]))[0], tokenizer, write([ROW]))


@pytest.mark.slow
def test_a_template_that_writes_without_end_is_stopped(write, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 60.0)
    monkeypatch.setattr(limits, "BYTES", 2**26)
    use(tokenizer, WRITES)
    with pytest.raises(ValueError, match=r"chat template takes more than 60 s or 0\.0625 GiB"):
        tokenise(read_rows(write([ROW]))[0], tokenizer, write([ROW]))


@pytest.mark.slow
def test_the_row_that_the_template_does_not_end_with_is_named(write, tokenizer) -> None:
    use(tokenizer, "{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}" + TURNS)
    config = write([ROW, ROW, SLOW])
    with pytest.raises(ValueError, match=r"^In pairs\.jsonl, row 3 takes the chat template more than 0\.3 s or 1 "):
        tokenise(read_rows(config)[0], tokenizer, config)


def test_rows_that_take_long_together_are_rendered_one_by_one(write, tokenizer, monkeypatch) -> None:
    use(tokenizer, TURNS)
    config = write([ROW, ROW])
    expected, _ = tokenise(read_rows(config)[0], tokenizer, config)
    (config_again := write([ROW | {"weight": 1.0}, ROW | {"weight": 1.0}])).cache_dir = str(config.cache_dir) + "-2"
    rendered = type(tokenizer).apply_chat_template

    def slow(self, conversations, **options) -> list[str]:
        if len(conversations) > 1:
            raise TooMuch("both")
        return rendered(self, conversations, **options)

    monkeypatch.setattr(type(tokenizer), "apply_chat_template", slow)
    pairs, _ = tokenise(read_rows(config_again)[0], tokenizer, config_again)
    assert (pairs.chosen.values == expected.chosen.values).all()


@pytest.mark.slow
def test_timers_and_handlers_are_as_before(monkeypatch) -> None:
    def mine(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(limits, "LOOK_EVERY", 0.01)
    earlier = signal.signal(signal.SIGVTALRM, mine)
    try:
        with pytest.raises(TooMuch), bounded():
            while True:
                pass
        assert signal.getsignal(signal.SIGVTALRM) is mine
        assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGVTALRM, earlier)


def test_other_threads_render_without_limits() -> None:
    found: list[int] = []

    def render() -> None:
        with bounded():
            found.append(1)

    thread = threading.Thread(target=render)
    thread.start()
    thread.join()
    assert found == [1]
