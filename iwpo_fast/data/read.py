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
from iwpo_fast.data.records import Records, read_records, source_name
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.limits import check_limits

Texts = tuple[Text, Text, Text]


def read_rows(config: DataConfig) -> tuple[Rows, Rows | None]:
    """Read preference pairs, recognise their form, check them, and hold out the evaluation rows.

    Returns:
        Rows to train on, and rows held out from training, if any; the `source` of these says so.

    Raises:
        ValueError: one sentence naming the file or row, and what to do.
    """
    check_limits(config, "data")
    names = column_names(config.columns)
    records, columns = read_records(config.path, config.split, names, limit=config.limit)
    source = source_name(config.path)
    check_mapping(config.columns, columns, source)
    rows, prompt_ids = _canonical_rows(records, source, config.on_prefix_mismatch)
    if config.eval_path is not None or config.eval_split is not None:
        return rows, _evaluation_rows(config, names)
    held_out = hold_out(rows.prompt, prompt_ids, config.eval_fraction)
    if held_out.all():
        raise ValueError(f"data.eval_fraction {config.eval_fraction} holds out all of {rows.source}: lower it.")
    train = replace(rows.take(np.flatnonzero(~held_out)), mismatches=rows.mismatches)
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


def mismatch_error(what: str, numbers: list[int], source: str) -> ValueError:
    """The sentence about rows whose completions do not follow one prompt."""
    others = f" (the first of {len(numbers)})" if len(numbers) > 1 else ""
    return ValueError(
        f"In {source}, row {numbers[0]}{others} {what}: correct it, or leave such rows out with "
        "data.on_prefix_mismatch drop."
    )


def _evaluation_rows(config: DataConfig, names: Mapping[str, str]) -> Rows:
    """The rows of `eval_path` or `eval_split`."""
    path, setting = (config.eval_path, "data.eval_path") if config.eval_path else (config.path, "data.path")
    records, columns = read_records(path, config.eval_split, names, setting=setting)
    # Evaluation data often lack weights and scores.
    texts = {ours: theirs for ours, theirs in config.columns.items() if ours in TEXTS}
    check_mapping(texts, columns, source_name(path))
    return _named_held_out(_canonical_rows(records, source_name(path), config.on_prefix_mismatch)[0])


def _named_held_out(rows: Rows) -> Rows:
    return replace(rows, source=f"{rows.source}, held out")


def _canonical_rows(records: Records, source: str, on_prefix_mismatch: str) -> tuple[Rows, list[Any]]:
    """Rows and the `prompt_id` of each, or None."""
    columns = numeric_columns(records, source)
    texts, arguments, mismatches = _canonical_texts(records, source)
    if mismatches and (on_prefix_mismatch == "error" or not texts):
        raise mismatch_error(next(iter(mismatches.values())), list(mismatches), source)
    prompt, chosen, rejected = (list(part) for part in zip(*texts.values(), strict=True))
    kept = np.array([number in texts for number in records])
    rows = Rows(
        source=source,
        numbers=np.array(list(texts), dtype=np.int64),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        columns={name: values[kept] for name, values in columns.items()},
        template=arguments if any(arguments) else None,
        mismatches=len(mismatches),
    )
    return rows, [records[number].get("prompt_id") for number in texts]


def _canonical_texts(records: Records, source: str) -> tuple[dict[int, Texts], list[dict[str, Any]], dict[int, str]]:
    """Texts by row number, what each of these rows gives its chat template, and why other rows have no one prompt."""
    texts: dict[int, Texts] = {}
    arguments: list[dict[str, Any]] = []
    mismatches: dict[int, str] = {}
    repeated = prompts_repeated(records.values())
    for number, record in records.items():
        try:
            texts[number] = canonical(record, prompt_repeated=repeated)
            _check_alike(next(iter(texts.values())), texts[number])
            arguments.append(template_arguments(record))
        except PrefixMismatch as mismatch:
            mismatches[number] = str(mismatch)
        except ValueError as error:
            raise ValueError(f"In {source}, row {number} {error}") from None
    return texts, arguments, mismatches


def _check_alike(first: Texts, other: Texts) -> None:
    if isinstance(first[0], str) != isinstance(other[0], str):
        raise ValueError("mixes conversations and plain text with the rows before it: make all rows the same.")


def template_arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives its chat template: the keys of `chat_template_kwargs`, and `tools` as a list."""
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
