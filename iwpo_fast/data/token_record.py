"""How texts become tokens, for the record of what is to read other texts in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iwpo_fast.config import DataConfig

SETTINGS = ("max_length", "truncation", "add_eos", "on_prefix_mismatch", "train_on", "on_text_left_out")

BEFORE_A_CHOICE: dict[str, Any] = {"train_on": "all", "on_text_left_out": "say"}
"""Of records of before there was a choice: all tokens of an answer were read, whatever the template left out."""


def token_record(data: DataConfig) -> dict[str, Any]:
    """The settings that the tokens of a text depend on, beside its tokenizer."""
    return {name: getattr(data, name) for name in SETTINGS}


def data_of(record: Mapping[str, Any]) -> DataConfig:
    """Settings that read texts as those were read that a record is of."""
    known = BEFORE_A_CHOICE | dict(record)
    return DataConfig("texts", **{name: known[name] for name in SETTINGS})
