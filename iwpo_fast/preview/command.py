"""The command `iwpo preview`: what a training would read of its data, without the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iwpo_fast.config import DataConfig, TrainConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.data import Rows, read_rows, tokenise
from iwpo_fast.data.ledger import left_out_lines, reading_lines
from iwpo_fast.data.read import HELD_OUT
from iwpo_fast.models import load_tokenizer
from iwpo_fast.preview.lines import preview_lines
from iwpo_fast.preview.look import look_at, not_written, rows_numbered, typical

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def preview(config: TrainConfig, *, rows: str | None = None, full: bool = False) -> None:
    """Print the shortest, a median and the longest training pair, or the given rows, and what is left out of them.

    Args:
        rows: their numbers, separated by commas, in `data.path`, and in the file of held-out pairs if there is one.
        full: show texts whole.

    Raises:
        ValueError: one sentence on what is wrong with configuration, data or numbers, and what to do.
    """
    check_config(config)
    numbers = None if rows is None else _numbers(rows)
    training, held_out = read_rows(config.data, votes=config.scores_are_votes)
    parts = [training] if held_out is None else [training, held_out]
    tokenizer = load_tokenizer(config.model, training.texts())
    smoothing = config.objective.label_smoothing
    if numbers is None:
        pairs, ledger = tokenise(training.without_candidates(), tokenizer, config.data, progress=True)
        print("\n".join(ledger.lines()))
        if held_out is not None:
            print("\n".join(tokenise(held_out.without_candidates(), tokenizer, config.data)[1].lines()))
        looks = look_at(training, typical(pairs), tokenizer, config.data, smoothing)
    else:
        _check_are_there(numbers, parts)
        shown = [(part, wanted) for part in parts if (wanted := rows_numbered(part, numbers))]
        for part, wanted in shown:
            for line in _left_out(part, wanted, tokenizer, config.data):
                print(f"{part.source}: {line}")
        looks = [
            look
            for part, wanted in shown
            for look in look_at(part, _said_of(part, wanted, training), tokenizer, config.data, smoothing)
        ]
        looks.sort(key=lambda look: numbers.index(look.number))
    print("\n".join(preview_lines(looks, tokenizer, training.source, full=full)))


def _left_out(part: Rows, wanted: dict[str, int], tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> list[str]:
    """What reading left out of all rows, and what the chat template leaves out of those that are shown."""
    of_shown = left_out_lines(not_written(part, wanted, tokenizer, config))
    return [*reading_lines(part.unread, part.notes), *(f"of the rows below, {line}" for line in of_shown)]


def _numbers(rows: str) -> list[int]:
    words = [word.strip() for word in rows.strip("[] ").split(",")]
    if not all(word.isascii() and word.isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"rows is {rows}: give numbers of rows, from 1, such as 3,17.")
    return [int(word) for word in dict.fromkeys(words)]


def _said_of(part: Rows, wanted: dict[str, int], training: Rows) -> dict[str, int]:
    """Names of rows that say which are held out, and of what file, where that is another."""
    if part is training:
        return wanted
    source = part.source.removesuffix(HELD_OUT)
    of = "" if source == training.source else f" of {source}"
    return {f"{name}{of} (held out)": row for name, row in wanted.items()}


def _check_are_there(numbers: list[int], parts: list[Rows]) -> None:
    for number in numbers:
        if not any((part.numbers == number).any() for part in parts):
            raise ValueError(
                f"rows names {number}, and {parts[0].source} has no pair there: the row is absent, blank or beyond "
                "data.limit, or reading left it out, as the counts of a preview without rows say."
            )
