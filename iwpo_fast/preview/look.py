"""What becomes of single pairs: their tokens after the cut, which of them are trained, and with which weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data.as_chat import for_model
from iwpo_fast.data.context import is_trained, token_ids
from iwpo_fast.data.encode import encode_rows
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.tokenise import unwritten, use_template
from iwpo_fast.data.truncate import cut, too_long
from iwpo_fast.data.unpaired import SIDES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS = ("prompt", "chosen", "rejected")
ALONE = dict(zip(PARTS[1:], SIDES, strict=True))
"""What a completion is called that has no other beside it."""
UNEVEN = "its completions do not continue the tokens of its prompt"


class Part(NamedTuple):
    """A prompt or a completion, as the model reads it.

    Attributes:
        ids: int32 [n], its token ids after the cut.
        before: int32 [m], what stands in front of it; some decoders write a token by its neighbour.
        trained: bool [n], which of its tokens the loss reads.
        cut: how many tokens it lost.
        cut_at: in front of which of `ids` these stood, from 0; n for an end that was cut.
    """

    ids: np.ndarray
    before: np.ndarray
    trained: np.ndarray
    cut: int
    cut_at: int


class Look(NamedTuple):
    """A pair on its way to training.

    Attributes:
        name: why it is shown, such as `longest`.
        number: its row in the source, from 1.
        place: the same in words, with the file where the source has several.
        parts: by name, a single completion by what its label says; empty where the tokens of the completions do not
            follow those of the prompt.
        columns: numbers that the data bring for it, weight and label smoothing among them; lists by several models.
        left_out: why it is not trained on, None if it is.
    """

    name: str
    number: int
    place: str
    parts: dict[str, Part]
    columns: dict[str, np.ndarray]
    left_out: str | None


def typical(pairs: Pairs) -> dict[str, int]:
    """The rows of the shortest, a median and the longest of the pairs, by their tokens; fewer of one or two pairs."""
    order = np.argsort(pairs.tokens_laid_out, kind="stable")
    place = {"shortest": 0, "median": len(order) // 2, "longest": len(order) - 1}
    found = {int(pairs.row[order[i]]): name for name, i in place.items()}
    return {name: row for row, name in found.items()}


def rows_numbered(rows: Rows, numbers: list[int]) -> dict[str, int]:
    """The rows of these numbers in the source, named so; all pairs of a row that has several."""
    found = {number: np.flatnonzero(rows.numbers == number).tolist() for number in numbers}
    return {
        f"row {number}" + (f", pair {pair + 1}" if len(of_row) > 1 else ""): row
        for number, of_row in found.items()
        for pair, row in enumerate(of_row)
    }


def look_at(
    rows: Rows,
    wanted: Mapping[str, int],
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    label_smoothing: float = 0.0,
) -> list[Look]:
    """Tokenise and cut single rows, as `tokenise` does with all.

    Args:
        wanted: rows of `rows`, counted from 0, by the name to show them under.
        label_smoothing: `ObjectiveConfig.label_smoothing`, for rows that bring none.

    Raises:
        ValueError: a row does not fit the tokenizer or its chat template.
    """
    some = _chosen(rows, wanted, tokenizer, config)
    unwritten(some, tokenizer, config)  # refuses what training would refuse
    encoded, _ = encode_rows(some, tokenizer, config)
    place = {int(row): i for i, row in enumerate(encoded.row)}
    looks = []
    for row, name in enumerate(wanted):
        whole = encoded.take(np.array([place[row]])) if row in place else None
        columns = {"weight": np.ones(())} | ({"label_smoothing": np.array(label_smoothing)} if label_smoothing else {})
        columns |= {column: values[row] for column, values in some.columns.items() if not _is_absent(values[row])}
        weight = float(columns["weight"])
        left, reason = (None, UNEVEN) if whole is None else _fate(whole, config, tokenizer.bos_token_id)
        parts = (
            {}
            if whole is None
            else _parts(whole, left, tokenizer.bos_token_id, trained=left is not None and weight != 0)
        )
        number = int(some.numbers[row])
        where = some.where(row).removeprefix("In ") if some.files else f"row {number}"
        looks.append(Look(name, number, where, parts, columns, reason))
    return looks


def _is_absent(number: np.ndarray) -> bool:
    """Whether a row has no such number, where others of its file have one."""
    return number.dtype.kind == "f" and bool(np.isnan(number).all())


def not_written(
    rows: Rows, wanted: Mapping[str, int], tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> dict[str, int]:
    """What the chat template leaves out of the given rows, and of how many; arguments and errors of `look_at`."""
    return unwritten(_chosen(rows, wanted, tokenizer, config), tokenizer, config)


def _chosen(rows: Rows, wanted: Mapping[str, int], tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Rows:
    """The wanted rows as they are for this model, which gets the chat template of the data."""
    some = rows.without_candidates().take(np.array(list(wanted.values()), dtype=np.int64))
    some = for_model(some, tokenizer, config.as_chat, config.chat_template)
    use_template(some, tokenizer, config)
    return some


def _fate(whole: Pairs, config: DataConfig, bos: int | None) -> tuple[Pairs | None, str | None]:
    """One pair after the cut, or why it is left out."""
    long = f"it is longer than {config.max_length} tokens"
    if config.truncation == "error" and too_long(whole, config.max_length)[0]:
        return None, long
    left, counts = cut(whole, max_length=config.max_length, policy=config.truncation, bos=bos)
    reasons = {
        "dropped_too_long": long,
        "dropped_empty": "a completion has no token",
        "dropped_identical": "its completions are the same",
    }
    return (left, None) if len(left) else (None, next(why for name, why in reasons.items() if counts[name]))


def _parts(whole: Pairs, left: Pairs | None, bos: int | None, *, trained: bool) -> dict[str, Part]:
    """Of one pair, after the cut if anything is left of it."""
    kept = whole if left is None else left
    lost = {name: int(getattr(whole, name).lengths[0] - getattr(kept, name).lengths[0]) for name in PARTS}
    prompt = kept.prompt[0]
    parts = {
        # A beginning-of-sequence token stays in front of what is cut.
        "prompt": Part(prompt, prompt[:0], np.zeros(len(prompt), bool), lost["prompt"], int(prompt[0] == bos)),
    }
    there = (True, True) if whole.present is None else whole.present[0]
    for name in (name for name, is_there in zip(PARTS[1:], there, strict=True) if is_there):
        stored = getattr(kept, name)[0]
        parts[name if all(there) else ALONE[name]] = Part(
            token_ids(stored), prompt, is_trained(stored) & trained, lost[name], len(stored)
        )
    return parts
