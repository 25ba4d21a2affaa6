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
from iwpo_fast.data.columns import TEXTS, check_mapping, column_names, numeric_columns
from iwpo_fast.data.forms import PrefixMismatch, canonical, prompts_repeated
from iwpo_fast.data.records import Records, read_records
from iwpo_fast.data.rows import Rows, RowSplits, Text


def read_rows(config: DataConfig) -> RowSplits:
    """Read preference pairs, recognise their form, check them, and hold out the evaluation rows.

    Raises:
        ValueError: one sentence naming the file or row, and what to do.
    """
    if config.limit is not None and config.limit < 1:
        raise ValueError(f"data.limit is {config.limit}: it must be positive or null.")
    names = column_names(config.columns)
    found = read_records(config.path, config.split, names, limit=config.limit)
    check_mapping(config.columns, found)
    rows, prompt_ids = _canonical_rows(found, config.on_prefix_mismatch)
    if config.eval_path is not None or config.eval_split is not None:
        path, setting = (config.eval_path, "data.eval_path") if config.eval_path else (config.path, "data.path")
        found = read_records(path, config.eval_split, names, setting=setting)
        # Evaluation data often lack weights and scores.
        check_mapping({ours: theirs for ours, theirs in config.columns.items() if ours in TEXTS}, found)
        return RowSplits.of(rows, _canonical_rows(found, config.on_prefix_mismatch)[0])
    held_out = hold_out(rows.prompt, prompt_ids, config.eval_fraction)
    if held_out.all():
        raise ValueError(f"data.eval_fraction {config.eval_fraction} holds out all of {rows.source}: lower it.")
    evaluation = rows.take(np.flatnonzero(held_out)) if held_out.any() else None
    train = replace(rows.take(np.flatnonzero(~held_out)), mismatches=rows.mismatches)
    return RowSplits.of(train, evaluation)


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


def mismatch_error(what: str, numbers: list[int], source: str) -> ValueError:
    """The sentence about rows whose completions do not follow one prompt."""
    others = f" (the first of {len(numbers)})" if len(numbers) > 1 else ""
    return ValueError(
        f"In {source}, row {numbers[0]}{others} {what}: correct it, or leave such rows out with "
        "data.on_prefix_mismatch drop."
    )


def _canonical_rows(found: Records, on_prefix_mismatch: str) -> tuple[Rows, list[Any] | None]:
    """Rows and their `prompt_id`s, if any has one."""
    columns = numeric_columns(found)
    repeated = prompts_repeated(found.records)
    kept: list[int] = []
    texts: list[tuple[Text, Text, Text]] = []
    mismatches: list[int] = []
    first = ""
    for i, (number, record) in enumerate(zip(found.numbers, found.records, strict=True)):
        try:
            texts.append(canonical(record, prompt_repeated=repeated))
            kept.append(i)
        except PrefixMismatch as error:
            first = first or str(error)
            mismatches.append(number)
        except ValueError as error:
            raise ValueError(f"In {found.source}, row {number} {error}") from None
        if texts and isinstance(texts[-1][0], str) != isinstance(texts[0][0], str):
            raise ValueError(
                f"In {found.source}, row {number} mixes conversations and plain text with the rows before it: "
                "make all rows the same."
            )
    if mismatches and (on_prefix_mismatch == "error" or not kept):
        raise mismatch_error(first, mismatches, found.source)
    prompt, chosen, rejected = (list(part) for part in zip(*texts, strict=True))
    rows = Rows(
        source=found.source,
        numbers=np.array(found.numbers, dtype=np.int64)[kept],
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        columns={name: values[kept] for name, values in columns.items()},
        template=_template_arguments(found, kept),
        mismatches=len(mismatches),
    )
    ids = [found.records[i].get("prompt_id") for i in kept]
    return rows, ids if any(key is not None for key in ids) else None


def _template_arguments(found: Records, kept: list[int]) -> list[dict[str, Any]] | None:
    """What each row gives its chat template: the keys of `chat_template_kwargs`, and `tools` as a list."""
    arguments = []
    for i in kept:
        try:
            arguments.append(_arguments(found.records[i]))
        except ValueError as error:
            raise ValueError(f"In {found.source}, row {found.numbers[i]} {error}") from None
    return arguments if any(arguments) else None


def _arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    keywords = _unpacked(record, "chat_template_kwargs", dict, "an object")
    tools = _unpacked(record, "tools", list, "a list of tools")
    return (keywords or {}) | ({"tools": tools} if tools else {})


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
