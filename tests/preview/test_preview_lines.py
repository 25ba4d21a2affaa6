from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data.rows import Rows
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.preview import look_at, preview_lines, rows_numbered, typical
from iwpo_fast.preview.look import Look, Part
from iwpo_fast.preview.screen import Span, cells, painted, terminal_has_colour, visible, wrapped

Write = Callable[..., DataConfig]
TALK = [{"role": "user", "content": "hi"}]


def said(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    return train_tokenizer([], 260)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_rows(rows: list[dict[str, Any]], **settings: Any) -> DataConfig:
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return DataConfig(path=str(path), cache_dir=str(tmp_path / "cache"), eval_fraction=0.0, **settings)

    return write_rows


def shown(tokenizer: PreTrainedTokenizerFast, config: DataConfig, row: int = 0, **options: Any) -> list[str]:
    rows = read_rows(config)[0]
    looks = look_at(rows, {"row": row}, tokenizer, config, options.pop("label_smoothing", 0.0))
    return preview_lines(looks, tokenizer, rows.source, width=options.pop("width", 80), colour=False, **options)[1:]


def test_prompt_and_completions_stand_apart_with_special_tokens_and_what_is_trained_marked(tokenizer, write) -> None:
    config = write([{"prompt": TALK, "chosen": said("yes\nsir")[0], "rejected": said("no")[0]}])
    assert shown(tokenizer, config) == [
        "row: prompt 20, chosen 8, rejected 3 tokens; weight 1",
        "  prompt   ‹<|im_start|>›user‹<|im_sep|>›hi‹<|im_end|><|im_start|>›assistant",
        "           ‹<|im_sep|>›",
        "  chosen   «yes↵sir‹<|im_end|>›»",
        "  rejected «no‹<|im_end|>›»",
    ]


def test_text_that_only_looks_like_a_special_token_is_not_marked_as_one(tokenizer, write) -> None:
    config = write([{"prompt": "a\n", "chosen": "<|eot|>", "rejected": "no"}])
    assert "  chosen   «<|eot|>‹<|im_end|>›»" in shown(tokenizer, config)


def test_the_place_of_a_cut_says_how_many_tokens_it_took(tokenizer, write) -> None:
    row = {"prompt": "0123456789", "chosen": "abcdefgh", "rejected": "x"}
    lines = shown(tokenizer, write([row], max_length=12))
    assert lines[0] == "row: prompt 3 of 10, chosen 9, rejected 2 tokens; weight 1"
    assert "  prompt   [7 tokens cut]789" in lines
    lines = shown(tokenizer, write([row], max_length=12, truncation="truncate_completion"))
    assert lines[0] == "row: prompt 10, chosen 2 of 9, rejected 2 tokens; weight 1"
    assert "  chosen   «ab»[7 tokens cut]" in lines


def test_a_beginning_of_sequence_token_stands_before_the_cut(tokenizer, write) -> None:
    start = "<|im_start|>"
    core = tokenizer.backend_tokenizer
    core.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, 1)])
    tokenizer.bos_token = start
    lines = shown(tokenizer, write([{"prompt": "0123456789", "chosen": "abcdefgh", "rejected": "x"}], max_length=12))
    assert lines[:2] == [
        "row: prompt 3 of 11, chosen 9, rejected 2 tokens; weight 1",
        f"  prompt   ‹{start}›[8 tokens cut]89",
    ]


@pytest.mark.parametrize(
    ("row", "settings", "why"),
    [
        ({"chosen": "abcdefgh"}, {"truncation": "drop", "max_length": 8}, "it is longer than 8 tokens"),
        ({"chosen": "abcdefgh"}, {"truncation": "error", "max_length": 8}, "it is longer than 8 tokens"),
        ({"chosen": "same", "rejected": "same"}, {}, "its completions are the same"),
        ({"prompt": "0123", "rejected": "ab"}, {"max_length": 4, "truncation": "truncate_completion"}, "has no token"),
    ],
)
def test_a_pair_that_is_left_out_says_why_and_nothing_of_it_is_marked_as_trained(
    tokenizer, write, row, settings, why
) -> None:
    lines = shown(tokenizer, write([{"prompt": "p\n", "chosen": "yes", "rejected": "no"} | row], **settings))
    assert why in lines[1] and lines[1].startswith("  left out: ")
    assert not any("«" in line for line in lines)


def test_a_pair_of_weight_zero_is_not_marked_as_trained(tokenizer, write) -> None:
    rows = [{"prompt": "p\n", "chosen": "yes", "rejected": "no", "weight": weight} for weight in (0.0, 0.5)]
    assert "  chosen   yes‹<|im_end|>›" in shown(tokenizer, write(rows))
    assert "  chosen   «yes‹<|im_end|>›»" in shown(tokenizer, write(rows), row=1)


def test_weights_labels_and_scores_are_those_of_the_row_or_of_the_settings(tokenizer, write) -> None:
    row = {"prompt": "p\n", "chosen": "yes", "rejected": "no", "weight": 0.5, "score_chosen": [1, 2.25]}
    lines = shown(tokenizer, write([row | {"score_rejected": [0, 1]}]), label_smoothing=0.1)
    said = "; weight 0.5, label_smoothing 0.1, score_chosen [1, 2.25], score_rejected [0, 1]"
    assert " ".join(line.strip() for line in lines[:2]).endswith(said)
    lines = shown(tokenizer, write([row | {"score_rejected": [0, 1], "label_smoothing": 0.3}]), label_smoothing=0.1)
    assert "label_smoothing 0.3" in lines[0]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_long_texts_show_beginning_and_end_in_two_lines_with_all_tokens_accounted_for(tokenizer, write, width) -> None:
    text = "".join(f"w{i}_" for i in range(400))
    config = write([{"prompt": "p\n", "chosen": text, "rejected": text[:900]}], max_length=4096)
    lines = shown(tokenizer, config, width=width)
    assert all(cells(line) <= width for line in lines) and len(lines) <= 7
    chosen = "\n".join(lines).partition("  chosen   ")[2].partition("  rejected ")[0]
    joined = re.sub(r"(\S)\n {11}", r"\1", chosen).replace("\n" + 11 * " ", " ").strip()
    head, number, tail = re.fullmatch(r"«(.*) \[… ([\d,]+) tokens …\] (.*)‹<\|im_end\|>›»", joined).groups()
    left_out = int(number.replace(",", ""))
    assert text.startswith(head) and text.endswith(tail)
    assert len(head) + left_out + len(tail) == len(text)


def test_full_shows_all_of_a_text_and_breaks_its_lines(tokenizer, write) -> None:
    text = "first\n\tsecond\n" + "word " * 100
    config = write([{"prompt": "p\n", "chosen": text, "rejected": "no"}])
    lines = shown(tokenizer, config, full=True)
    assert lines[2:4] == ["  chosen   «first↵", "           \\tsecond↵"]
    assert "".join(lines).count("word") == 100
    assert all(cells(line) <= 80 for line in lines)


def test_an_elision_never_splits_a_character(tokenizer, write) -> None:
    text = "日本語" * 100
    config = write([{"prompt": "p\n", "chosen": text, "rejected": "no"}])
    for width in range(50, 62):
        assert "\ufffd" not in "".join(shown(tokenizer, config, width=width))


def test_a_space_at_the_end_of_a_prompt_can_be_seen(tokenizer, write) -> None:
    config = write([{"prompt": "answer:  ", "chosen": "yes", "rejected": "no"}])
    assert "  prompt   answer:␣␣" in shown(tokenizer, config)


def test_a_decoder_that_drops_the_space_of_a_first_word_does_not_hide_it() -> None:
    words = ["<unk>", "</s>", "▁what", "▁blue", "▁red"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    prompt, chosen = np.array([2]), np.array([3, 4, 1])
    parts = {
        "prompt": Part(prompt, prompt[:0], np.zeros(1, bool), 0, 0),
        "chosen": Part(chosen, prompt, np.ones(3, bool), 0, 3),
    }
    lines = preview_lines([Look("row 1", 1, "row 1", parts, {}, None)], tokenizer, "x", width=80, colour=False)
    assert lines[-1] == "  chosen   « blue red‹</s>›»"


def test_the_shortest_a_median_and_the_longest_pair_are_found_by_their_tokens(tokenizer, write) -> None:
    lengths = [30, 5, 50, 20, 40]
    config = write([{"prompt": "p\n", "chosen": "a" * n, "rejected": "b"} for n in lengths])
    rows = read_rows(config)[0]
    pairs = tokenise(rows, tokenizer, config)[0]
    assert typical(pairs) == {"shortest": 1, "median": 0, "longest": 2}
    assert list(typical(pairs.take(np.array([0])))) == ["longest"]


def test_all_pairs_of_a_row_are_found_by_its_number(write) -> None:
    row = {"prompt": "p\n", "candidates": ["a", "b", "c"], "candidate_scores": [3, 2, 1]}
    two = row | {"prompt": "q\n", "candidates": ["a", "b"], "candidate_scores": [2, 1]}
    rows: Rows = read_rows(write([row, two], pairs_from_candidates="all"))[0]
    assert rows_numbered(rows, [2, 9]) == {"row 2": 3}
    assert rows_numbered(rows, [1]) == {f"row 1, pair {k + 1}": k for k in range(3)}


def test_control_characters_are_escaped_and_letters_are_not() -> None:
    assert visible("a\tb\x1b[2J\u202e\r\n\u2028") == "a\\tb\\x1b[2J\\u202e\\r↵\\u2028"
    assert visible("naïve 日本 👩\u200d👧 سلام") == "naïve 日本 👩\u200d👧 سلام"


@pytest.mark.slow
@given(st.lists(st.tuples(st.text(max_size=30), st.sampled_from(["plain", "trained"])), max_size=5), st.integers(4, 40))
def test_wrapped_lines_hold_all_characters_in_their_styles_and_fit(spans: list[tuple[str, str]], width: int) -> None:
    lines = list(wrapped([Span(*span) for span in spans], width, at_new_lines=False))
    characters = [(character, style) for line in lines for text, style in line for character in text]
    assert characters == [(character, style) for text, style in spans for character in text]
    assert all(sum(cells(text) for text, _ in line) <= width for line in lines)


def test_colour_changes_nothing_but_the_colour() -> None:
    line = [Span("a "), Span("«b»", "trained"), Span("‹c›", "special")]
    assert painted(line, colour=False) == "a «b»‹c›"
    assert painted(line, colour=True) == "a \x1b[32m«b»\x1b[0m\x1b[35m‹c›\x1b[0m"
    assert re.sub(r"\x1b\[\d*m", "", painted(line, colour=True)) == painted(line, colour=False)


@pytest.mark.parametrize(
    ("tty", "environment", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_there_is_colour_on_a_terminal_that_wants_it(monkeypatch, tty, environment, expected) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: tty, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal_has_colour() is expected
