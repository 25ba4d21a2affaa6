"""What is refused before any stage has worked, and in a dry run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from pipeline_cases import DATA, stages_done, toy_config, toy_rows, write_jsonl
from transformers import LlamaConfig

from iwpo_fast.cli import main
from iwpo_fast.config import ClusterConfig, LoraConfig, OptimConfig, RewardConfig, TuningConfig, WeightConfig
from iwpo_fast.pipeline import job as job_module
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.run import ALL_ONE, weights_lines
from iwpo_fast.world import World

REFUSED = [
    (
        ["--rewards.source", "model", "--rewards.model", "absent"],
        "rewards.model absent is neither a folder with a sequence",
    ),
    (["--rewards.source", "model", "--rewards.model", "three"], "rewards.model three has 3 labels"),
    (["--rewards.source", "columns"], "rewards.source is columns but the data have no score_chosen"),
    (["--clusters.backend", "cuml"], "The k-means backend cuml needs"),
    (["--model.path", "absent"], "absent"),
    (["--model.attention", "flash_attn_2"], "model.attention is flash_attn_2, which is made for half precision"),
    (["--seed", str(2**32)], "seed is 4294967296: it must be 0 or more and less than 2**32."),
]


@pytest.mark.slow
@pytest.mark.parametrize("dry_run", ["true", "false"])
@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_would_fail_late_is_refused_before_anything_is_made(
    place, capsys, monkeypatch, flags, sentence, dry_run
) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    LlamaConfig(num_labels=3).save_pretrained("three")
    write_jsonl(DATA, toy_rows(4))
    call = ["run", "--data.path", DATA, "--output_dir", "run", "--device", "cpu", "--dry_run", dry_run, *flags]
    assert main(call) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("iwpo: error: ") and said.count("\n") == 1
    assert not (place / "run" / "prepared").exists()


@pytest.mark.parametrize("content", [None, '{"chosen": 1}\n'])
def test_a_dry_run_refuses_data_that_cannot_be_read(place, content) -> None:
    if content is not None:
        Path(DATA).write_text(content)
    with pytest.raises(ValueError, match=r"pairs\.jsonl"):
        stages_done(toy_config(dry_run=True))
    assert not (place / "run").exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_rows_of_one_completion_are_refused_because_rewards_compare_two(place, dry_run) -> None:
    write_jsonl(DATA, [{"prompt": "Is it?", "completion": f"Yes {i}.", "label": True} for i in range(9)])
    with pytest.raises(ValueError, match="has one completion and a label, and iwpo run compares two answers"):
        stages_done(toy_config(dry_run=dry_run))
    assert not (place / "run" / "prepared").exists()


@pytest.mark.slow
def test_what_the_stages_to_do_have_no_need_of_is_not_checked(copied, monkeypatch) -> None:
    config = toy_config(clusters=ClusterConfig(count=3, min_pairs=8, backend="cuml"))
    monkeypatch.setattr("iwpo_fast.pipeline.stages.cluster.choose_backend", lambda name: name)
    monkeypatch.setattr("iwpo_fast.rewards.clusters.choose_backend", lambda name: "sklearn")
    stages_done(config)
    monkeypatch.undo()
    monkeypatch.chdir(copied)
    config.weights.tau = 1.0
    assert stages_done(config)[0] == "weigh"
    with pytest.raises(ValueError, match="backend cuml needs"):
        stages_done(config, start="cluster")


@pytest.mark.slow
def test_an_adapter_that_fits_nothing_is_refused_before_the_reference_pass_by_its_own_name(place) -> None:
    write_jsonl(DATA, toy_rows(8))
    tuning = TuningConfig(lora=LoraConfig(target_modules=["nowhere"]), optim=OptimConfig(max_steps=1))
    with pytest.raises(ValueError, match=r"^rewards\.tuning\.lora does not fit"):
        stages_done(toy_config(rewards=RewardConfig(tuning=tuning)))
    assert not list(place.glob("run/cache/**/*response*")) and not (place / "run/reference").exists()


def test_the_first_process_alone_finds_features_but_cannot_run_a_model_that_several_hold(place, monkeypatch) -> None:
    whole, sharded = (SimpleNamespace(is_sharded=is_sharded, context=None) for is_sharded in (False, True))
    monkeypatch.setattr(job_module, "load_tokenizer", lambda *_: None)
    monkeypatch.setattr(job_module, "load_policy", lambda *_, mesh, **__: whole if mesh is None else sharded)
    monkeypatch.setattr(PipelineJob, "load_pairs", lambda _: None)
    monkeypatch.setattr(job_module, "pair_features", lambda *_, **__: SimpleNamespace())
    mesh: Any = SimpleNamespace()
    job = PipelineJob(toy_config(), PipelineFolder(Path("run")), World(0, 2, torch.device("cpu")), mesh)
    features = job.load_features()
    assert job.load_policy() is sharded
    assert job.alone().load_features() is job.load_features() is features
    with pytest.raises(AssertionError, match="several hold"):
        job.alone().load_policy()
    job.free()
    assert job.alone().load_policy() is whole


def test_a_model_that_one_device_cannot_hold_for_tuning_is_one_sentence(place, monkeypatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(job_module, "load_policy", load)
    monkeypatch.setattr(job_module, "load_tokenizer", lambda *_: None)
    job = PipelineJob(toy_config(), PipelineFolder(Path("run")), World(0, 2, torch.device("cpu")))
    with pytest.raises(ValueError, match=r"^rewards\.tuning needs the whole model on one device.*set rewards\.tuning"):
        job.new_policy(LoraConfig())


DOUBT = "relative_variance 1.0"


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (WeightConfig(), f"form cautious: method none, soft_labels posterior, preferred_pairs 1, {DOUBT}"),
        (
            WeightConfig(form="strong"),
            "form strong: method irpss, tau 2.0, gamma 2.0, ess_target noise, soft_labels 0.75, preferred_pairs 0",
        ),
        (WeightConfig(form="off"), "form off: method none, soft_labels 0.0, preferred_pairs 0"),
        (
            WeightConfig(form="off", preferred_pairs=2, tau=0.5),
            f"form off: method none, tau 0.5, soft_labels 0.0, preferred_pairs 2, {DOUBT}",
        ),
    ],
)
def test_what_the_form_of_the_weights_sets_is_said_and_nothing_that_is_not_read(weights, said) -> None:
    assert weights_lines(weights)[0] == f"weights, {said}"


def test_why_no_pair_weighs_more_is_said_where_the_form_has_decided_it_alone() -> None:
    assert weights_lines(WeightConfig())[1:] == [ALL_ONE]
    others = (WeightConfig(tau=2.0), WeightConfig(method="none"), WeightConfig(form="off"), WeightConfig(form="strong"))
    assert [len(weights_lines(weights)) for weights in others] == [1] * 4


def test_a_stage_alone_sends_nothing_and_says_so(place, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    with pytest.raises(ValueError, match="push_to_hub is me/mine, and --only does one stage and sends nothing"):
        stages_done(toy_config(push_to_hub="me/mine"), only="train")
    assert not (place / "run").exists()
