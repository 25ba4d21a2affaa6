"""A pipeline on data that are a list, a mix, or plain text for a chat model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pipeline_cases import DATA, Row, read_jsonl, stages_done, toy_config, toy_rows, write_jsonl

from iwpo_fast.config import DataConfig, MixedConfig
from iwpo_fast.pipeline.stages import prepare

FOUR = [{"prompt": f"what is {i}?", "chosen": "a cat", "rejected": "a dog"} for i in range(4)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(DATA, toy_rows(8))
    write_jsonl("more.jsonl", FOUR)
    return tmp_path


def prepared() -> list[Row]:
    return read_jsonl("run/prepared/train.jsonl")


@pytest.mark.slow
def test_a_mix_is_prepared_with_its_weights_and_again_when_one_of_its_files_changes(folder) -> None:
    data = DataConfig(path=[DATA], eval_fraction=0.0, mix=[MixedConfig(path="more*.jsonl", weight=0.5)])
    mixed = toy_config(data=data)
    assert stages_done(mixed, only="prepare") == ["prepare"]
    assert [row["weight"] for row in prepared()] == [1.0] * len(toy_rows(8)) + [0.5] * 4
    known = [prepare.settings(mixed)]
    assert prepare.settings(mixed) in known
    write_jsonl("more.jsonl", FOUR[:3])
    assert prepare.settings(mixed) not in known
    known.append(prepare.settings(mixed))
    write_jsonl("more-2.jsonl", FOUR[:2])
    assert prepare.settings(mixed) not in known
    other = toy_config(data=replace(data, mix=[replace(data.mix[0], weight=2.0)]))
    assert prepare.settings(other) not in [*known, prepare.settings(mixed)]
    stages_done(mixed, only="prepare")
    assert len(prepared()) == len(toy_rows(8)) + 5


@pytest.mark.slow
def test_plain_text_is_prepared_as_conversations_for_a_model_with_a_template(folder) -> None:
    write_jsonl(DATA, FOUR)
    data = DataConfig(path=DATA, eval_fraction=0.0, as_chat="auto")
    stages_done(toy_config(data=data), only="prepare")
    assert {type(row["prompt"]) for row in prepared()} == {list}
    stages_done(toy_config(data=replace(data, as_chat=False)), only="prepare")
    assert {type(row["prompt"]) for row in prepared()} == {str}
