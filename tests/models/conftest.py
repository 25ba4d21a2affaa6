"""A tokenizer, models on disk, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_batch, save_model
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import ModelConfig
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.world import World

TEXTS = ["The quick brown fox jumps over the lazy dog.", "How vexingly quick daft zebras jump!"] * 3


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, 320)


@pytest.fixture
def batch(tokenizer: PreTrainedTokenizerBase) -> FlatBatch:
    return make_batch(len(tokenizer))


@pytest.fixture
def policy_of(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Callable[..., Policy]:
    """Save a random model of a family and load it as a policy on the CPU."""

    def make(
        family: str, *, max_length: int | None = 20, changes: dict[str, Any] | None = None, **options: Any
    ) -> Policy:
        folder = save_model(tmp_path / family, family, tokenizer, **(changes or {}))
        config = ModelConfig(path=str(folder), **options)
        return load_policy(config, tokenizer, World(0, 1, torch.device("cpu")), seed=3, max_length=max_length)

    return make
