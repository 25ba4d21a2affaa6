"""Rounds: runs one after the other, each from the model that the one before has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_cases import DATA, refused_in_a_sentence, stages_done, toy_config, toy_rows, write_jsonl
from safetensors.torch import load_file

from iwpo_fast.cli import main
from iwpo_fast.config import CandidateConfig, LoraConfig, ModelConfig, OptimConfig, RunConfig
from iwpo_fast.pipeline.rounds import round_of


def config(**parts: Any) -> RunConfig:
    asked = CandidateConfig(per_prompt=1, max_new_tokens=4, tokens_per_batch=2000)
    short = OptimConfig(lr=1e-2, pairs_per_step=8, max_steps=2, tokens_per_batch=1024)
    return toy_config(**({"candidates": asked, "optim": short, "rounds": 2, "arms": ["dpo"]} | parts))


@pytest.mark.slow
def test_each_round_draws_from_and_trains_what_the_one_before_has_trained(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(DATA, toy_rows(30))
    done = stages_done(config())
    assert [done.count(name) for name in ("prepare", "sample", "reference", "reward")] == [2] * 4
    first, second = (load_file(f"run/round-{number}/train/model/model.safetensors") for number in (1, 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    samples = [Path(f"run/round-{number}/samples/candidates.jsonl").read_text() for number in (1, 2)]
    assert samples[0] != samples[1]
    assert "run/round-1/train/model" in Path("run/round-2/train/config.yaml").read_text()
    assert Path("run/round-2/arms").exists() and not Path("run/round-1/arms").exists()
    trained = ["train", "--data.path", DATA, "--output_dir", "further", "--model.path"]
    for command in (["report"], ["chat", "--model"], ["merge", "--output", "merged", "--model"], trained):
        assert main([*command, "run"]) == 2
        assert "run holds rounds: name the folder of one of them, such as run/round-2." in capsys.readouterr().err
    assert stages_done(config()) == []
    assert stages_done(round_of(config(), 2)) == []


def test_an_adapter_is_trained_further_on_the_same_base() -> None:
    asked = config(model=ModelConfig(path="base", lora=LoraConfig(rank=4)), rounds=3, push_to_hub="me/mine")
    first, second, third = (round_of(asked, number) for number in (1, 2, 3))
    assert first.model == asked.model and first.arms == [] and first.push_to_hub is None
    assert (second.model.path, second.model.lora, second.model.adapter) == ("base", None, "run/round-1/train/model")
    assert third.model.adapter == "run/round-2/train/model"
    assert (third.arms, third.push_to_hub, third.output_dir) == (["dpo"], "me/mine", "run/round-3")
    assert [one.seed for one in (first, second, third)] == [0, 1, 2] and {third.rounds, first.rounds} == {1}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "candidates.per_prompt is 0, so every round would see the same pairs"),
        (["--candidates.per_prompt", "1", "--from", "reward"], "--from and --only name a stage of one round"),
        (["--candidates.per_prompt", "1", "--model.lora.rank", "4"], "leave model.lora out"),
    ],
)
def test_rounds_that_make_no_sense_are_refused(tmp_path, monkeypatch, capsys, flags, sentence) -> None:
    monkeypatch.chdir(tmp_path)
    refused_in_a_sentence(["--rounds", "2", *flags], sentence, capsys)


def test_a_folder_of_a_run_without_rounds_is_refused(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/manifest.json").write_text("{}")
    flags = ["--rounds", "2", "--candidates.per_prompt", "1"]
    refused_in_a_sentence(flags, "run holds a run without rounds: choose another output_dir", capsys)
