"""The stage that draws completions: what it leaves, what becomes of it, kills, several processes and refusals."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import HANG
from pipeline_cases import (
    DATA,
    STAGES,
    read_jsonl,
    refused_in_a_sentence,
    results,
    run_and_be_killed,
    run_in_two_processes,
    stages_done,
    toy_config,
    toy_rows,
    write_jsonl,
    write_toy_data,
)
from safetensors.numpy import load_file

from iwpo_fast.cli import main
from iwpo_fast.config import CandidateConfig, DataConfig, ModelConfig, RunConfig
from iwpo_fast.data.unique import Responses
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.stages import sample as module
from iwpo_fast.sampling import by_transformers
from iwpo_fast.sampling.blocks import Draw
from iwpo_fast.world import World

WITH_SAMPLE = [STAGES[0], "sample", *STAGES[1:]]
SAMPLES = Path("run/samples/candidates.jsonl")
MASKED = DataConfig(path=DATA, eval_fraction=0.2, max_length=96, truncation="drop", on_prefix_mismatch="drop")


def config(**parts: Any) -> RunConfig:
    asked = CandidateConfig(per_prompt=3, max_new_tokens=12, tokens_per_batch=400, top_p=0.9)
    return toy_config(**({"candidates": asked} | parts))


@pytest.fixture(scope="session")
def sampled(tmp_path_factory) -> Path:
    """The pipeline up to its rewards. To be read only."""
    place = tmp_path_factory.mktemp("sampled")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_toy_data()
        assert stages_done(config()) == WITH_SAMPLE
    return place


@pytest.mark.slow
def test_drawn_completions_become_candidates_of_their_prompts_with_features_and_rewards(sampled, monkeypatch) -> None:
    monkeypatch.chdir(sampled)
    rows, drawn = read_jsonl("run/prepared/train.jsonl"), read_jsonl(SAMPLES)
    first = {row["prompt"]: i for i, row in reversed(list(enumerate(rows)))}
    assert {record["row"] for record in drawn} <= set(first.values())
    result = json.loads(Path("run/manifest.json").read_text())["stages"]["sample"]["result"]
    assert result["drawn"] == 3 * result["prompts"] == 3 * (len(first) - result["prompts_too_long"])
    lost = sum(result[name] for name in ("dropped_empty", "dropped_duplicate", "dropped_prefix_mismatch"))
    assert result["kept"] == len(drawn) == result["drawn"] - lost > 20
    for record in drawn:
        assert record["completion"] and record["tokens"] <= 12 and record["draws"] >= 1
        assert record["log_mu"] > record["log_model"]  # top-p leaves fewer tokens
    job = PipelineJob(config(), PipelineFolder(Path("run")), World(0, 1, torch.device("cpu")))
    pairs = job.load_pairs()
    responses, rewards = Responses.of(pairs), load_file("run/rewards/rewards.safetensors")
    assert len(pairs.candidates) > 0.8 * len(drawn)
    assert len(rewards["calibrated"]) == len(responses) > len(np.union1d(responses.chosen, responses.rejected))
    assert np.isfinite(rewards["members_calibrated"]).all()
    numbers = [drawn[k]["log_mu"] for k in pairs.candidates.source]
    assert pairs.candidates.columns["log_mu"].tolist() == numbers
    assert np.isnan(pairs.candidates.columns["score"]).all()


@pytest.mark.slow
def test_the_second_call_does_nothing_and_another_temperature_draws_and_reads_anew(sampled, place) -> None:
    shutil.copytree(sampled, place, dirs_exist_ok=True)
    before = results(place)
    assert stages_done(config()) == []
    assert stages_done(config(), force=True) == WITH_SAMPLE
    assert results(place) == before
    other = CandidateConfig(per_prompt=2, max_new_tokens=12, tokens_per_batch=400, temperature=0.5)
    assert stages_done(config(candidates=other))[:2] == ["sample", "reference"]
    assert "sample" not in stages_done(config(candidates=CandidateConfig()))


@pytest.mark.slow
def test_a_damaged_file_of_samples_is_drawn_again_to_the_same_bytes(sampled, place) -> None:
    shutil.copytree(sampled, place, dirs_exist_ok=True)
    before = results(place)
    SAMPLES.write_text("damaged")
    assert stages_done(config()) == ["sample"]
    assert results(place) == before


@pytest.mark.slow
def test_kills_while_drawing_and_while_joining_end_in_the_same_bytes(sampled, place, processes) -> None:
    shutil.copy2(sampled / DATA, place)
    moments = {
        "after some blocks": ("iwpo_fast.sampling.by_transformers:draw_block", 4),
        "in the file of a block": ("iwpo_fast.files:_settle", 2),
        "before the parts are joined": ("iwpo_fast.pipeline.stages.sample:merged", 1),
        "before the parts are removed": ("iwpo_fast.pipeline.stages.sample:shutil.rmtree", 1),
    }
    for moment, (target, call) in moments.items():
        process = processes.Process(target=run_and_be_killed, args=(place, target, call, config()))
        process.start()
        process.join(HANG)
        assert process.exitcode == -signal.SIGKILL, f"{moment}: {(place / 'said-0.txt').read_text()}"
    stages_done(config())
    assert results(place) == results(sampled)
    assert not (place / "run/samples/parts").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shard_over", [1, "all"])
def test_two_processes_share_the_prompts_and_draw_what_one_does(sampled, place, processes, shard_over) -> None:
    shutil.copy2(sampled / DATA, place)
    run_in_two_processes(place, processes, config(shard_over=shard_over))
    ours, theirs = (read_jsonl(folder / SAMPLES) for folder in (place, sampled))
    assert len(ours) == len(theirs)
    logs = ("log_mu", "log_model")
    for found, expected in zip(ours, theirs, strict=True):
        assert {name: found[name] for name in found if name not in logs} == {
            name: expected[name] for name in expected if name not in logs
        }
        assert [found[name] for name in logs] == pytest.approx([expected[name] for name in logs], rel=1e-4)


@pytest.mark.slow
def test_a_process_without_a_block_keeps_in_step_where_the_model_is_shared(place, processes) -> None:
    write_jsonl(DATA, toy_rows(12))
    one = CandidateConfig(per_prompt=1, max_new_tokens=4, tokens_per_batch=100_000)
    run_in_two_processes(place, processes, config(shard_over="all", candidates=one, data=MASKED), only=None)
    assert read_jsonl(SAMPLES)


def stub(monkeypatch, tokens: list[int]) -> None:
    """Whatever is asked for, these tokens are drawn."""
    monkeypatch.setattr(
        by_transformers,
        "draw_block",
        lambda policy, prompts, asked, **_: [Draw(tokens, True, -1.0, -2.0)] * len(prompts),
    )


def test_a_sampler_that_gives_nothing_is_refused_with_what_to_look_at(place, monkeypatch) -> None:
    write_toy_data()
    stub(monkeypatch, [])
    with pytest.raises(ValueError, match=r"All \d+ completions that tiny gave are empty: look at the model"):
        stages_done(config())
    assert not SAMPLES.exists()


def test_equal_draws_are_one_candidate_that_says_how_often(place, monkeypatch) -> None:
    write_toy_data()
    stages_done(config(), only="prepare")
    vocabulary = json.loads(Path("run/prepared/tiny/tokenizer.json").read_text())["model"]["vocab"]
    stub(monkeypatch, [vocabulary["c"]])
    stages_done(config(), only="sample")
    drawn = read_jsonl(SAMPLES)
    assert {(record["completion"], record["draws"], record["log_mu"]) for record in drawn} == {("c", 3, -1.0)}


def test_completions_that_change_the_tokens_of_their_prompt_are_left_out_and_counted(place, monkeypatch) -> None:
    write_toy_data()
    monkeypatch.setattr(module, "encode_candidates", lambda rows, *_, **__: (np.arange(1, 4), None))
    asked = CandidateConfig(per_prompt=1, max_new_tokens=4)
    stages_done(config(candidates=asked), only="prepare")
    stages_done(config(candidates=asked), only="sample")
    result = json.loads(Path("run/manifest.json").read_text())["stages"]["sample"]["result"]
    different = result["drawn"] - result["dropped_empty"] - result["dropped_duplicate"]
    assert len(read_jsonl(SAMPLES)) == result["kept"] == 3
    assert result["dropped_prefix_mismatch"] == different - 3 > 0


@pytest.mark.slow
def test_conversations_get_messages_that_end_with_the_models_end_of_turn(place, monkeypatch) -> None:
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    Path("template.jinja").write_text(template)
    rows = [
        row
        | {"prompt": [{"role": "user", "content": row["prompt"]}]}
        | {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        for row in toy_rows(20)
    ]
    write_jsonl(DATA, rows)
    data = DataConfig(path=DATA, max_length=160, chat_template="template.jinja")
    ends, real = [], by_transformers.draw_block

    def noted(*arguments: Any, **options: Any) -> list[Draw]:
        ends.append(options["ends"])
        return real(*arguments, **options)

    monkeypatch.setattr(by_transformers, "draw_block", noted)
    stages_done(config(data=data), only="prepare")
    shutil.copytree("run/prepared/tiny", "model")
    Path("model/checksums.json").unlink()  # because the folder is changed here
    path = Path("model/generation_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [7, 9]}))
    shutil.rmtree("run")
    own = config(data=data, model=ModelConfig(path="model"))
    stages_done(own)
    assert {record["completion"][0]["role"] for record in read_jsonl(SAMPLES)} == {"assistant"}
    assert {7, 9} < set(ends[0]) and len(ends[0]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("truncation", ["drop", "truncate_prompt_left"])
def test_prompts_without_room_are_left_out_or_cut_as_the_policy_says(place, truncation) -> None:
    write_jsonl(DATA, [*toy_rows(20), {"prompt": "long " * 300 + "\n", "chosen": "red", "rejected": "blue"}])
    data = DataConfig(path=DATA, eval_fraction=0.0, max_length=100, truncation=truncation, on_prefix_mismatch="drop")
    stages_done(config(data=data), only="prepare")
    stages_done(config(data=data), only="sample")
    result = json.loads(Path("run/manifest.json").read_text())["stages"]["sample"]["result"]
    assert (result["prompts"], result["prompts_too_long"]) == ((20, 1) if truncation == "drop" else (21, 0))


REFUSED = [
    (
        ["--candidates.temperature", "0.5"],
        "candidates.temperature is 0.5 and candidates.per_prompt is 0, so nothing is",
    ),
    (["--candidates.per_prompt", "-1"], "candidates.per_prompt is -1: it must be 0 or more"),
    (["--candidates.per_prompt", "2", "--candidates.top_p", "0"], "candidates.top_p is 0.0: it must be"),
    (["--candidates.per_prompt", "2", "--candidates.temperature", "0"], "candidates.temperature is 0.0: it must be"),
    (
        ["--candidates.per_prompt", "2", "--data.max_length", "256"],
        "candidates.max_new_tokens is 256 and data.max_length",
    ),
    (
        ["--candidates.per_prompt", "2", "--candidates.backend", "vllm"],
        "candidates.backend is vllm but vllm is not inst",
    ),
    (
        ["--candidates.per_prompt", "2", "--rewards.source", "columns"],
        "candidates.per_prompt is 2 and rewards.source is",
    ),
    (["--only", "sample"], "--only sample has nothing to do: set candidates.per_prompt to more than 0."),
    (
        ["--data.pairs_from_candidates", "all"],
        "data.pairs_from_candidates is all, but every row of pairs.jsonl has its",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_cannot_be_drawn_is_one_sentence_and_nothing_is_written(place, capsys, flags, sentence) -> None:
    refused_in_a_sentence(flags, sentence, capsys)
    assert not (place / "run" / "prepared").exists()


def test_vllm_is_refused_among_several_processes(place) -> None:
    settings = config(candidates=CandidateConfig(per_prompt=1, backend="vllm"))
    job = PipelineJob(settings, PipelineFolder(Path("run")), World(0, 2, torch.device("cpu")))
    with pytest.raises(ValueError, match=r"candidates\.backend is vllm in a job of 2 processes"):
        module.check(job)


@pytest.mark.slow
def test_every_setting_and_stage_is_in_the_help(capsys) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = capsys.readouterr().out
    assert all(f"--candidates.{name}" in said for name in vars(CandidateConfig()))
    assert "--data.pairs_from_candidates" in said
