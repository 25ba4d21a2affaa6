"""Token ids against those of TRL's own preparation of the same rows."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data.context import token_ids

datasets = pytest.importorskip("datasets")

PLAIN = [
    {"prompt": "what is the sky\n", "chosen": "the sky is blue", "rejected": "green</s>"},
    {"prompt": "the colour of the grass is", "chosen": " green, today", "rejected": " blue — ünïcödé 🙂"},
    {"prompt": "say:", "chosen": " ", "rejected": "\n\n1. the\n2. sky"},
]
TALK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is the sky"}]
TALKS = [
    {
        "prompt": TALK[start:],
        "chosen": [{"role": "assistant", "content": "the sky is blue"}],
        "rejected": [{"role": "assistant", "content": "today"}, TALK[1], {"role": "assistant", "content": "green"}],
    }
    for start in (0, 1)
]
IMPLICIT = [{"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]} for row in TALKS]
TOOLS = [row | {"tools": [{"name": "search"}]} for row in TALKS]


def trl_ids(rows: list[dict[str, Any]], tokenizer: Any) -> list[tuple[list[int], ...]]:
    trainer = pytest.importorskip("trl").DPOTrainer
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    prepared = trainer._prepare_dataset(
        SimpleNamespace(_tokenizer=tokenizer), datasets.Dataset.from_list(rows), tokenizer, arguments, "train"
    )
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in prepared]


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("rows", [PLAIN, TALKS, IMPLICIT, TOOLS], ids=["strings", "messages", "implicit", "tools"])
def test_token_ids_are_those_of_trl(rows, adds_bos, write, tokenizer, bos_tokenizer) -> None:
    used = bos_tokenizer if adds_bos else tokenizer
    expected = trl_ids(copy.deepcopy(rows), used)
    config = write(rows)
    pairs, _ = tokenise(read_rows(config)[0], used, config)
    ours = [
        tuple(token_ids(part[row]).tolist() for part in (pairs.prompt, pairs.chosen, pairs.rejected))
        for row in range(len(pairs))
    ]
    assert ours == expected
