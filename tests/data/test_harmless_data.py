"""The real pairs in the folder of shared data beside the repository."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows, tokenise

PATH = Path(__file__).parents[2].parent / "shared" / "data" / "hh_harmless_test.jsonl.gz"

EARLY = 5
"""Rows whose dialogues part before their last turn."""

pytestmark = pytest.mark.skipif(not PATH.exists(), reason=f"{PATH} is not there")


def config(tmp_path: Path, **settings) -> DataConfig:
    return DataConfig(path=str(PATH), cache_dir=str(tmp_path), **settings)


def test_real_dialogues_that_part_early_are_cut_where_they_part_and_said(tmp_path) -> None:
    rows, _ = read_rows(config(tmp_path, eval_fraction=0.0))
    assert (len(rows), rows.mismatches) == (2312, 0)
    row = rows.numbers.tolist().index(1255)
    assert rows.prompt[row].endswith("\n\nHuman: Isn't that drag kings?\n\nAssistant:")
    assert rows.chosen[row].startswith(" No. Men who") and "\n\nAssistant:" in rows.chosen[row]
    assert (
        rows.rejected[row]
        == " A drag king is the opposite of a drag queen, like a male who acts like a stereotypical woman."
    )
    [(what, count)] = rows.notes.items()
    assert what.startswith("rows whose answers go on with turns of the user") and count == EARLY


@pytest.mark.slow
def test_real_prompts_are_held_out_whole(tmp_path) -> None:
    train, evaluation = read_rows(config(tmp_path, eval_fraction=0.1))
    assert len(train) + len(evaluation) == 2312
    assert not set(train.prompt) & set(evaluation.prompt)
    assert 0.07 < len(evaluation) / 2312 < 0.13


@pytest.mark.slow
def test_every_real_row_is_in_one_ledger_and_once(tmp_path, tokenizer) -> None:
    settings = config(tmp_path, eval_fraction=0.1)
    train, evaluation = read_rows(settings)
    train, evaluation = (tokenise(rows, tokenizer, settings)[1] for rows in (train, evaluation))
    assert train.rows_read + evaluation.rows_read == 2312
    assert (train.dropped_prefix_mismatch, evaluation.dropped_prefix_mismatch) == (0, 0)
    assert train.lines()[0].startswith("hh_harmless_test.jsonl.gz: ")
    assert evaluation.lines()[0].startswith("hh_harmless_test.jsonl.gz, held out: ")


@pytest.mark.slow
def test_real_dialogues_survive_tokenisation(tmp_path, tokenizer) -> None:
    settings = config(tmp_path, eval_fraction=0.0, limit=300, max_length=100_000)
    rows = read_rows(settings)[0]
    pairs, ledger = tokenise(rows, tokenizer, settings)
    with gzip.open(PATH, "rt", encoding="utf-8") as file:
        source = [json.loads(line) for line, _ in zip(file, range(300), strict=False)]
    assert ledger.kept == len(pairs) == 300
    for row in range(300):
        for name in ("chosen", "rejected"):
            ids = [*pairs.prompt[row], *getattr(pairs, name)[row]]
            assert tokenizer.decode(ids) == source[row][name] + "</s>"
        assert tokenizer.decode(pairs.prompt[row]).endswith("\n\nAssistant:")


@pytest.mark.slow
def test_real_dialogues_are_cut_to_the_limit_and_accounted_for(tmp_path, tokenizer) -> None:
    settings = config(tmp_path, eval_fraction=0.0, limit=300, max_length=200)
    pairs, ledger = tokenise(read_rows(settings)[0], tokenizer, settings)
    assert ledger.kept + sum(ledger.dropped.values()) == 300
    assert 0 < ledger.prompts_cut <= ledger.too_long
    longest = pairs.prompt.lengths + pairs.chosen.lengths.clip(pairs.rejected.lengths)
    assert longest.max() == 200
