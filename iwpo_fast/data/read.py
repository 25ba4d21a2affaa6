"""From the configured source to rows for training and rows held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data.as_chat import as_conversations, of_one_kind
from iwpo_fast.data.candidates import LEFT_OUT, PairOfRow, RowOfPairs, read_row
from iwpo_fast.data.columns import (
    PREFERRED,
    SCORES,
    SCORES_OF_SIDES,
    TEXTS,
    TURNS,
    check_mapping,
    column_names,
    numeric_columns,
    with_numbers,
)
from iwpo_fast.data.forms import PrefixMismatch, check_encodable
from iwpo_fast.data.messages import check_is_text, parsed, with_messages
from iwpo_fast.data.mix import sources_of, together
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.data.places import Place
from iwpo_fast.data.preferred import by_verdict
from iwpo_fast.data.ragged import bounds_of
from iwpo_fast.data.recognise import Recogniser
from iwpo_fast.data.records import Records, Source, read_records
from iwpo_fast.data.rows import Candidates, Rows, Text
from iwpo_fast.limits import check_limits

TIE = RowOfPairs([])
"""What a row holds whose two answers are equally good."""


def read_rows(config: DataConfig) -> tuple[Rows, Rows | None]:
    """Read preference pairs, recognise their form, check them, and hold out the evaluation rows.

    Returns:
        Rows to train on, and rows held out from training, if any; the `source` of these says so.

    Raises:
        ValueError: one sentence naming the file or row, and what to do.
    """
    check_limits(config, "data")
    sources = sources_of(config)
    parts, ids = zip(*(_read_source(source) for source, _ in sources), strict=True)
    rows = of_one_kind(together(parts, [weight for _, weight in sources]), config.as_chat)
    _check_pairs_are_made(rows, config)
    if config.eval_path is not None or config.eval_split is not None:
        return rows, _evaluation_rows(config, rows)
    prompt_ids = [key for of_part in ids for key in of_part]
    held_out = hold_out(rows.prompt, prompt_ids, config.eval_fraction)
    if held_out.all():
        raise ValueError(f"data.eval_fraction {config.eval_fraction} holds out all of {rows.source}: lower it.")
    train = rows.take(np.flatnonzero(~held_out))
    train = replace(train, mismatches=rows.mismatches, unpaired=rows.unpaired, unread=rows.unread)
    return train, _named_held_out(rows.take(np.flatnonzero(held_out))) if held_out.any() else None


def hold_out(prompts: list[Text], prompt_ids: list[Any] | None, fraction: float) -> np.ndarray:
    """bool [N], the rows to hold out: about `fraction` of the prompts, all rows of a prompt together.

    The side depends on the hash of the prompt alone (of its `prompt_id` where there is one), so it is the same whatever
    else is in the data. A prompt that stands under several ids is held out only if all of them are. Where a positive
    fraction comes to none of two or more prompts, the one of the smallest hash is held out.
    """
    texts = [json.dumps(prompt, default=str) for prompt in prompts]
    ids = prompt_ids or [None] * len(texts)
    hashes: dict[str, float] = {}
    for text, key in zip(texts, ids, strict=True):
        hashes[text] = max(hashes.get(text, 0.0), _uniform(text if key is None else str(key)))
    values = np.array([hashes[text] for text in texts])
    smallest = values.min()
    if 0 < fraction <= smallest < values.max():
        return values == smallest
    return values < fraction


def mismatch_error(what: str, where: str, count: int) -> ValueError:
    """The sentence about rows whose completions do not follow one prompt.

    Args:
        where: what the first of them is called, such as "In pairs.jsonl, row 3".
        count: how many there are.
    """
    others = f" (the first of {count})" if count > 1 else ""
    return ValueError(f"{where}{others} {what}: correct it, or leave such rows out with data.on_prefix_mismatch drop.")


def _check_pairs_are_made(rows: Rows, config: DataConfig) -> None:
    how, candidates = config.pairs_from_candidates, rows.candidates
    if how != "best_worst" and (candidates is None or not candidates.left_out["in_pairs"].any()):
        raise ValueError(
            f"data.pairs_from_candidates is {how}, but every row of {rows.source} has its chosen and rejected: leave "
            "it out."
        )


def _read_source(config: DataConfig) -> tuple[Rows, list[Any]]:
    """The rows of `data.path`, or of one data set of a mix, and the `prompt_id` of each, or None."""
    place = Place(config.path, config.split, config.name)
    source = read_records(place, column_names(config.columns), limit=config.limit)
    check_mapping(config.columns, source.columns, place.title)
    check_is_text(source.columns, place.title)
    if config.preferred and "preferred" not in {*config.columns, *source.columns}:
        raise ValueError(
            "data.preferred says which values mean which answer, and no column holds them: name it as preferred in "
            "data.columns."
        )
    return _canonical_rows(source, config)


def _evaluation_rows(config: DataConfig, training: Rows) -> Rows:
    """The rows of `eval_path` or `eval_split`, which are text or conversations as those for training are."""
    place = Place(config.path, config.eval_split, config.name)
    if config.eval_path is not None:
        place = Place(config.eval_path, config.eval_split, setting="data.eval_path")
    # Evaluation data often lack weights and scores.
    source = read_records(place, column_names(config.columns))
    texts = {ours: theirs for ours, theirs in config.columns.items() if ours in (*TEXTS, *TURNS, *PREFERRED)}
    check_mapping(texts, source.columns, place.title)
    check_is_text(source.columns, place.title)
    rows = _canonical_rows(source, config)[0]
    is_chat = training.conversational and config.as_chat is not False
    rows = as_conversations(rows) if is_chat else of_one_kind(rows, config.as_chat)
    if rows.conversational != training.conversational:
        kinds = [
            f"{part.where(0).removeprefix('In ')}, is {'a conversation' if part.conversational else 'plain text'}"
            for part in (training, rows)
        ]
        raise ValueError(f"{' and '.join(kinds)}: make training and evaluation data of one kind.")
    return _named_held_out(rows)


def _named_held_out(rows: Rows) -> Rows:
    return replace(rows, source=f"{rows.source}, held out")


def _canonical_rows(source: Source, config: DataConfig) -> tuple[Rows, list[Any]]:
    """Rows, which may be of both kinds, and the `prompt_id` of each, or None."""
    records, numbering = source.records, source.numbering
    if source.is_text:
        records = {number: with_numbers(record) for number, record in records.items()}
    recognise = Recogniser(config.columns, config.preferred)
    columns = _numeric_columns(records, numbering, recognise)
    found, given, mismatches = _read_each(records, numbering, recognise, config)
    if mismatches and (config.on_prefix_mismatch != "drop" or not found):
        number, what = next(iter(mismatches.items()))
        raise mismatch_error(what, numbering.where(number), len(mismatches))
    place = dict(zip(records, range(len(records)), strict=True))
    numbers = [number for number, row in found.items() for _ in row.pairs]
    if not numbers:
        raise ValueError(
            f"No row of {numbering.title} has two candidates of different scores, or a better and a worse answer: give "
            "it some, or pairs."
        )
    pairs = [pair for row in found.values() for pair in row.pairs]
    prompt, chosen, rejected = (list(part) for part in zip(*(pair.texts for pair in pairs), strict=True))
    arguments = [given[number] for number in numbers]
    kept = np.array([place[number] for number in numbers])
    rows = Rows(
        source=numbering.title,
        numbers=np.array(numbers, dtype=np.int64),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        columns=_with_scores({name: values[kept] for name, values in columns.items()}, pairs),
        template=arguments if any(arguments) else None,
        mismatches=len(mismatches),
        candidates=_candidates(list(found.values())),
        unpaired=sum(not row.pairs for row in found.values()),
        unread=recognise.unread,
        files=numbering.files if len(numbering.files) > 1 else (),
    )
    return rows, [records[number].get("prompt_id") for number in numbers]


def _numeric_columns(records: Records, numbering: Numbering, recognise: Recogniser) -> dict[str, np.ndarray]:
    columns = numeric_columns(records, numbering)
    if SCORES_OF_SIDES[0] not in columns:
        return columns
    if not all("preferred" in record for record in records.values()):
        raise ValueError(
            f"{numbering.title} has {' and '.join(SCORES_OF_SIDES)} and no column that says which is better: name it "
            "as preferred in data.columns, or the scores as score_chosen and score_rejected."
        )
    return by_verdict(columns, [recognise.means(record["preferred"]) for record in records.values()])


def _read_each(
    records: Records, numbering: Numbering, recognise: Recogniser, config: DataConfig
) -> tuple[dict[int, RowOfPairs], dict[int, dict[str, Any]], dict[int, str]]:
    """By row number: what each holds, what it gives its chat template, and why other rows have no one prompt."""
    found: dict[int, RowOfPairs] = {}
    arguments: dict[int, dict[str, Any]] = {}
    mismatches: dict[int, str] = {}
    for number, record in records.items():
        try:
            row = recognise(record)
            found[number] = TIE if row is None else _read_one(row, config)
            arguments[number] = template_arguments(record)
            check_encodable(record.get("prompt_id"))
        except PrefixMismatch as mismatch:
            mismatches[number] = str(mismatch)
        except ValueError as error:
            raise ValueError(f"{numbering.where(number)} {error}") from None
    return found, arguments, mismatches


def _read_one(row: Mapping[str, Any], config: DataConfig) -> RowOfPairs:
    return read_row(with_messages(row, TEXTS), config.pairs_from_candidates)


def _with_scores(columns: dict[str, np.ndarray], pairs: list[PairOfRow]) -> dict[str, np.ndarray]:
    """The columns, with the scores that candidates bring of chosen and rejected, where the columns have none."""
    scores = np.array([pair.scores for pair in pairs])
    if np.isnan(scores).all() or any(columns.get(name, scores[:, 0]).ndim > 1 for name in SCORES):
        return columns
    given = {name: columns.get(name, np.full(len(pairs), np.nan)) for name in SCORES}
    return columns | {
        name: np.where(np.isnan(values), scores[:, side], values) for side, (name, values) in enumerate(given.items())
    }


def _candidates(rows: list[RowOfPairs]) -> Candidates | None:
    """The candidates of all rows, each behind the first pair of its row; None if no row has any."""
    if all(row.others is None for row in rows):
        return None
    with_pairs = [row for row in rows if row.pairs]
    first = bounds_of([len(row.pairs) for row in with_pairs])[:-1]
    others = [row.others or [] for row in with_pairs]
    left_out = {name: np.zeros(sum(len(row.pairs) for row in with_pairs), dtype=np.int64) for name in LEFT_OUT}
    for name, counts in left_out.items():
        counts[first] = [(row.left_out or {}).get(name, 0) for row in with_pairs]
    return Candidates(
        texts=[text for scored in others for text, _ in scored],
        row=np.repeat(first, [len(scored) for scored in others]),
        columns={"score": np.array([score for scored in others for _, score in scored], dtype=np.float64)},
        left_out=left_out,
    )


RESERVED = {
    *("conversation", "messages", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict"),
    *("return_tensors", "chat_template", "padding", "truncation", "max_length"),
}


def template_arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives its chat template: the keys of `chat_template_kwargs`, and `tools` as a list."""
    keywords = _unpacked(record, "chat_template_kwargs", dict, "an object")
    if reserved := RESERVED & (keywords or {}).keys():
        raise ValueError(
            f"has {min(reserved)} in chat_template_kwargs, which rendering decides by itself: leave it out there."
        )
    tools = _unpacked(record, "tools", list, "a list of tools")
    arguments = (keywords or {}) | ({"tools": [parsed(tool) for tool in tools]} if tools else {})
    check_encodable(arguments)
    return arguments


def _unpacked(record: Mapping[str, Any], name: str, kind: type, what: str) -> Any:
    """Nested values may be stored as JSON, since Arrow columns have one type."""
    value = record.get(name)
    with suppress(ValueError, RecursionError):
        value = json.loads(value) if isinstance(value, str) else value
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"has {name} of another kind: make it {what}, or {what} as JSON.")
    return value


def _uniform(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
