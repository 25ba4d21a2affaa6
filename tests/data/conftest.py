"""Tokenizers and preference rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import train_tokenizer
from transformers import PreTrainedTokenizerFast

from iwpo_fast.config import DataConfig


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, adds no special token, has a chat template that takes tools."""
    return train_tokenizer()


@pytest.fixture
def bos_tokenizer() -> PreTrainedTokenizerFast:
    """Adds <s> before every text, as Llama's does."""
    return train_tokenizer(adds_bos=True)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., DataConfig]:
    """Writes rows as JSONL and configures them, all for training and nothing cached before."""

    def write_rows(rows: list[dict[str, Any]] | str, **settings: Any) -> DataConfig:
        path = tmp_path / "pairs.jsonl"
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        return DataConfig(
            **({"path": str(path), "cache_dir": str(tmp_path / "cache"), "eval_fraction": 0.0} | settings)
        )

    return write_rows
