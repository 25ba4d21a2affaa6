"""The command `iwpo preview`: what a training would read of its data, without the model."""

from __future__ import annotations

from iwpo_fast.config import TrainConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.data import Rows, read_rows, tokenise
from iwpo_fast.models import load_tokenizer
from iwpo_fast.preview.lines import preview_lines
from iwpo_fast.preview.look import look_at, rows_numbered, typical


def preview(config: TrainConfig, *, rows: str | None = None, full: bool = False) -> None:
    """Print the shortest, a median and the longest training pair, or the given rows of `data.path`.

    Args:
        rows: their numbers, separated by commas; rows that are held out can be shown too.
        full: show texts whole.

    Raises:
        ValueError: one sentence on what is wrong with configuration, data or numbers, and what to do.
    """
    check_config(config)
    numbers = None if rows is None else _numbers(rows)
    training, held_out = read_rows(config.data)
    tokenizer = load_tokenizer(config.model, training.texts())
    smoothing = config.objective.label_smoothing
    if numbers is None:
        pairs, ledger = tokenise(training.without_candidates(), tokenizer, config.data, progress=True)
        print("\n".join(ledger.lines()))
        looks = look_at(training, typical(pairs), tokenizer, config.data, smoothing)
    else:
        named = config.data.eval_path is not None or config.data.eval_split is not None
        parts = [training] if held_out is None or named else [training, held_out]
        _check_are_there(numbers, parts)
        looks = [
            look
            for part in parts
            if (wanted := rows_numbered(part, numbers))
            for look in look_at(part, _said_of(part, wanted), tokenizer, config.data, smoothing)
        ]
        looks.sort(key=lambda look: numbers.index(look.number))
    print("\n".join(preview_lines(looks, tokenizer, training.source, full=full)))


def _numbers(rows: str) -> list[int]:
    words = [word.strip() for word in rows.strip("[] ").split(",")]
    if not all(word.isascii() and word.isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"rows is {rows}: give numbers of rows, from 1, such as 3,17.")
    return [int(word) for word in dict.fromkeys(words)]


def _said_of(part: Rows, wanted: dict[str, int]) -> dict[str, int]:
    held_out = part.source.endswith(", held out")
    return {f"{name} (held out)" if held_out else name: row for name, row in wanted.items()}


def _check_are_there(numbers: list[int], parts: list[Rows]) -> None:
    for number in numbers:
        if not any((part.numbers == number).any() for part in parts):
            raise ValueError(
                f"rows names {number}, and {parts[0].source} has no pair there: the row is absent, blank or beyond "
                "data.limit, or reading left it out, as the counts of a preview without rows say."
            )
