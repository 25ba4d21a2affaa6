"""The pipeline on prompts that have more responses than their pairs: each is run once, and each has its reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_cases import DATA, STAGES, read_jsonl, rows_of_four, stages_done, toy_config, write_jsonl
from safetensors.numpy import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from iwpo_fast.cli import main
from iwpo_fast.config import DataConfig, LoraConfig, OptimConfig, RewardConfig, RunConfig, TuningConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import reference
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.world import World

Row = dict[str, Any]


def config(**parts: Any) -> RunConfig:
    return toy_config(**({"data": DataConfig(path=DATA, eval_fraction=0.2, max_length=96)} | parts))


@pytest.fixture
def four(place) -> list[Row]:
    rows = rows_of_four()
    write_jsonl(DATA, rows)
    return rows


def training_job(settings) -> PipelineJob:
    return PipelineJob(settings, PipelineFolder(Path("run")), World(0, 1, torch.device("cpu")))


def raw_by_text(settings) -> dict[tuple[str, str], np.ndarray]:
    """The raw rewards of every response of the training data, by prompt and text."""
    raw, job = load_file("run/rewards/rewards.safetensors")["raw"], training_job(settings)
    responses, tokenizer = Responses.of(job.load_pairs()), job.load_tokenizer()

    def text(ids: np.ndarray) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    prompts = [text(responses.prompts[i]) for i in responses.prompt_of]
    return {(x, text(responses.completions[i])): raw[i] for i, x in enumerate(prompts)}


def given_scores(path: str = DATA) -> dict[tuple[str, str], float]:
    train, _ = read_rows(DataConfig(path=path, eval_fraction=0.2))
    texts = [*zip(train.prompt, train.chosen, strict=True), *zip(train.prompt, train.rejected, strict=True)]
    scores = np.concatenate([train.columns["score_chosen"], train.columns["score_rejected"]]).tolist()
    texts += [(train.prompt[i], text) for i, text in zip(train.candidates.row, train.candidates.texts, strict=True)]
    return dict(zip(texts, scores + train.candidates.scores.tolist(), strict=True))


@pytest.mark.slow
def test_every_response_is_run_once_and_has_a_reward_and_training_runs_none_again(four, monkeypatch) -> None:
    run, real = [], reference.flat_responses

    def recorded(found: Responses, rows: np.ndarray) -> FlatBatch:
        run.extend((found.prompts[found.prompt_of[row]].tobytes(), found.completions[row].tobytes()) for row in rows)
        return real(found, rows)

    monkeypatch.setattr(reference, "flat_responses", recorded)
    assert stages_done(config()) == STAGES
    training, held_out = (read_jsonl(f"run/prepared/{name}.jsonl") for name in ("train", "held_out"))
    assert len(training) + len(held_out) == len(four)
    assert all(len(row["candidates"]) == len(row["candidate_scores"]) == 2 for row in training + held_out)
    assert len(run) == len(set(run)) == 4 * len(training) + 2 * len(held_out)
    found = raw_by_text(config())
    assert found.keys() == given_scores().keys() and len(found) == 4 * len(training)
    assert np.isfinite(np.array(list(found.values()))).all()
    weighted = read_jsonl("run/weights/train.jsonl")
    assert len(weighted) == len(training) and not any("candidates" in row for row in weighted)
    stages = json.loads(Path("run/manifest.json").read_text())["stages"]
    assert stages["prepare"]["result"]["candidates"] == {
        "read": 4 * len(training),
        "in_pairs": 2 * len(training),
        "kept": 2 * len(training),
        "dropped_duplicate": 0,
        "dropped_empty": 0,
    }
    assert stages["reference"]["result"]["responses"] == 4 * len(training)
    counts = stages["reference"]["result"]["candidates"]
    assert counts["kept"] == counts["read"] == 2 * len(training) and counts["cut"] == 0


@pytest.mark.slow
def test_scores_of_the_data_are_the_rewards_of_candidates_too(four) -> None:
    settings = config(rewards=RewardConfig(source="columns"))
    stages_done(settings)
    found, given = raw_by_text(settings), given_scores()
    assert {key: value.tolist() for key, value in found.items()} == {key: [value] for key, value in given.items()}


@pytest.mark.slow
def test_a_candidate_without_a_score_is_named_where_scores_are_the_rewards(four, capsys) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    four[3]["candidate_scores"] = [None, 4.0, 0.0, 2.0]
    write_jsonl(DATA, four)
    call = ["run", "--data.path", DATA, "--data.eval_fraction", "0", "--output_dir", "run", "--device", "cpu"]
    sizes = {"vocab_size": 320, "hidden_size": 32, "layers": 1, "heads": 2}
    call += [text for name, size in sizes.items() for text in (f"--model.tiny.{name}", str(size))]
    assert main([*call, "--rewards.source", "columns"]) == 2
    assert "row 4 lacks a score although rewards.source is columns: give every pair both" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reward_model_reads_candidates_too(four) -> None:
    stages_done(config(), only="prepare")
    tokenizer = AutoTokenizer.from_pretrained("run/prepared/tiny")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokenizer), num_labels=1, **sizes))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained("rm")
    tokenizer.save_pretrained("rm")
    settings = config(rewards=RewardConfig(source="model", model="rm"))
    stages_done(settings)
    found = raw_by_text(settings)
    assert found.keys() == given_scores().keys()
    for prompt, text in list(found)[::7]:
        with torch.no_grad():
            expected = model(**tokenizer(prompt + text, return_tensors="pt", return_token_type_ids=False)).logits.item()
        assert found[prompt, text].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_tuned_model_scores_candidates_as_it_does_the_responses_of_pairs(four) -> None:
    tuning = TuningConfig(lora=LoraConfig(rank=2), optim=OptimConfig(lr=1e-12, max_steps=1))
    frozen = config(rewards=RewardConfig(folds=2, ridge=0.1, residual=None, likelihood=False))
    stages_done(frozen)
    expected = raw_by_text(frozen)
    tuned = config(rewards=RewardConfig(folds=2, ridge=0.1, residual=None, likelihood=False, tuning=tuning))
    stages_done(tuned)
    found = raw_by_text(tuned)
    spread = np.std(list(expected.values()))
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, atol=5e-3 * spread)


@pytest.mark.slow
def test_the_reward_model_of_another_run_scores_candidates_too(four) -> None:
    stages_done(config(output_dir="other"))
    settings = config(rewards=RewardConfig(source="iwpo", model="other/rewards/reward_model"))
    stages_done(settings)
    found = raw_by_text(settings)
    assert found.keys() == given_scores().keys()
    assert np.isfinite(load_file("run/rewards/rewards.safetensors")["members_calibrated"]).all()
    write_jsonl(DATA, [row | {"candidates": row["candidates"][::-1], "candidate_scores": [4, 0, 1, 2]} for row in four])
    stages_done(settings)  # now candidates are what pairs were made of, and the other way round
    for key, values in raw_by_text(settings).items():
        np.testing.assert_allclose(values, found[key], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("how", ["best_worst", "all"])
def test_pairs_of_candidates_are_those_that_the_setting_names(four, capsys, how) -> None:
    stages_done(config(data=DataConfig(path=DATA, pairs_from_candidates=how, max_length=96)), only="prepare")
    rows = read_jsonl("run/prepared/train.jsonl")
    prompts = len({row["prompt"] for row in rows})
    assert len(rows) == {"best_worst": 1, "all": 6}[how] * prompts
    assert all(row["score_chosen"] > row["score_rejected"] for row in rows)


@pytest.mark.slow
def test_training_alone_reads_the_pairs_and_runs_no_other_candidate(four, monkeypatch) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    run, real = [], reference.flat_responses

    def recorded(found: Responses, rows: np.ndarray) -> FlatBatch:
        run.extend(rows.tolist())
        return real(found, rows)

    monkeypatch.setattr(reference, "flat_responses", recorded)
    sizes = {"vocab_size": 320, "hidden_size": 32, "layers": 1, "heads": 2}
    flags = [text for name, size in sizes.items() for text in (f"--model.tiny.{name}", str(size))]
    call = [
        "train",
        "--data.path",
        DATA,
        "--output_dir",
        "trained",
        "--device",
        "cpu",
        "--optim.max_steps",
        "1",
        *flags,
    ]
    assert main([*call, "--data.cache_dir", "cache", "--data.eval_fraction", "0"]) == 0
    assert len(run) == 2 * len(four)
    assert "candidates" not in json.loads(Path("trained/ledger.json").read_text())


@pytest.mark.slow
def test_the_second_call_does_nothing_and_changed_candidates_redo_everything(four) -> None:
    assert stages_done(config()) == STAGES
    assert stages_done(config()) == []
    before = json.loads(Path("run/manifest.json").read_text())["stages"]["prepare"]["settings"]
    assert not {"pairs_from_candidates", "as_chat"} & before["data"].keys()
    four[0]["candidates"][0] += " calm"
    write_jsonl(DATA, four)
    assert stages_done(config()) == STAGES
