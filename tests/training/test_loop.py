from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_pairs import write_pairs
from transformers import AutoModelForCausalLM, AutoTokenizer

from iwpo_fast.config import DataConfig, LogConfig, ModelConfig, ObjectiveConfig, OptimConfig
from iwpo_fast.data import Pairs
from iwpo_fast.models.pretrained import model_line
from iwpo_fast.training import loop, prepared, train
from iwpo_fast.training.reporter import step_line


def metrics_of(settings) -> list[dict]:
    return [json.loads(line) for line in (Path(settings.output_dir) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_loss_starts_at_ln_2_and_falls_while_accuracy_rises(config) -> None:
    settings = config(optim=OptimConfig(lr=3e-3, pairs_per_step=8, max_steps=16, epochs=8))
    summary = train(settings)
    steps = [m for m in metrics_of(settings) if "loss" in m]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert summary.before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[-1]["loss"] < 0.55
    assert steps[-1]["rewards/accuracies"] > 0.9


@pytest.mark.slow
def test_ipo_starts_at_its_value_at_margin_zero(config) -> None:
    settings = config(objective=ObjectiveConfig(name="ipo", beta=0.5), optim=OptimConfig(pairs_per_step=8, max_steps=1))
    assert train(settings).before["eval_loss"] == pytest.approx(1.0, abs=1e-5)


def test_metrics_have_the_names_that_trl_users_know(config) -> None:
    settings = config(optim=OptimConfig(pairs_per_step=8, max_steps=1))
    train(settings)
    step = next(m for m in metrics_of(settings) if "loss" in m)
    names = "loss rewards/chosen rewards/rejected rewards/margins rewards/accuracies logps/chosen logps/rejected"
    ours = "loss/unweighted weights/ess_frac weights/max data/truncated_frac perf/tokens_per_sec perf/peak_memory_gib"
    assert set(f"{names} grad_norm learning_rate epoch {ours} step".split()) == step.keys()


def test_the_line_of_a_step_fits_80_columns_and_shows_the_unweighted_loss_beside_a_weighted_one() -> None:
    metrics = {"loss": 0.69314, "loss/unweighted": 0.70411, "rewards/accuracies": 0.5, "rewards/margins": -12.3456}
    plain = step_line(metrics | {"weights/ess_frac": 1.0, "weights/max": 1.0}, 12_000, 25_000, 7500.0)
    assert plain == "step 12000/25000  loss 0.6931  accuracy 0.500  margin -12.346  2 h 05 min left"
    weighted = step_line(metrics | {"weights/ess_frac": 0.8, "weights/max": 2.0}, 1_200, 2_500, 7500.0)
    assert weighted == "step 1200/2500  loss 0.6931, 0.7041 unweighted  accuracy 0.500  2 h 05 min left"
    assert max(len(plain), len(weighted)) <= 80
    gpo = {"loss": 29335038.6159, "rewards/margins": -5.88e-6, "weights/ess_frac": 1.0, "weights/max": 1.0}
    wide = step_line(metrics | gpo, 1_200, 2_500, 7500.0)
    assert wide == "step 1200/2500  loss 2.934e+07  accuracy 0.500  margin -5.9e-06  2 h 05 min left"
    assert len(wide) <= 80
    assert "margin +0.0019  " in step_line(metrics | gpo | {"rewards/margins": 0.00193}, 1_200, 2_500, 7500.0)
    unmoved = step_line(metrics | gpo | {"rewards/margins": 0.0}, 1_200, 2_500, 7500.0)
    assert "margin +0.000" in unmoved


def test_a_run_without_a_model_says_that_its_own_is_for_trials_before_anything_else(config, capsys) -> None:
    settings = config(optim=OptimConfig(pairs_per_step=8, max_steps=1), dry_run=True)
    assert settings.model.path == "tiny"
    train(settings)
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "model: tiny, which has random weights and is for trials: set model.path for yours"
    given = ModelConfig(path="./my-model", revision="main")
    assert model_line(given) == "model: ./my-model, revision main"
    assert model_line(replace(given, revision=None)) == "model: ./my-model"


@pytest.mark.slow
def test_weight_zero_removes_pairs_and_weights_of_one_change_nothing(config, tmp_path) -> None:
    def final_loss(name: str, rows: int, **columns: list[float]) -> float:
        data = write_pairs(tmp_path / f"{name}.jsonl", rows=rows, **columns)
        settings = config(
            data=DataConfig(path=str(data), eval_fraction=0.0, cache_dir=str(tmp_path / "cache")),
            optim=OptimConfig(lr=1e-3, pairs_per_step=16, max_steps=2, epochs=2),
            output_dir=str(tmp_path / name),
        )
        train(settings)
        return metrics_of(settings)[-1]["loss"]

    assert final_loss("ones", 16, weight=[1.0] * 16) == final_loss("none", 16)
    assert final_loss("zeros", 16, weight=[0.0] * 16) == 0.0


@pytest.mark.slow
def test_the_saved_model_reproduces_the_log_probs_in_plain_transformers(config) -> None:
    settings = config()
    summary = train(settings)
    folder = Path(settings.output_dir) / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    from iwpo_fast.data import read_rows, tokenise

    held_out, _ = tokenise(read_rows(settings.data)[1], tokenizer, settings.data, progress=False)
    total = 0.0
    for row in range(len(held_out)):
        ids = torch.tensor([[*held_out.prompt[row], *held_out.chosen[row]]], dtype=torch.long)
        logps = model(ids).logits.detach().log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        total += float(logps[len(held_out.prompt[row]) - 1 :].sum())
    assert summary.after["eval_logps/chosen"] == pytest.approx(total / len(held_out), rel=1e-5)


@pytest.mark.slow
def test_a_policy_that_is_not_the_reference_stops_before_the_first_step(config, monkeypatch) -> None:
    real = prepared.with_reference

    def shifted(*arguments, **keywords) -> Pairs:
        pairs = real(*arguments, **keywords)
        pairs.ref_token_logps[1].values[:] += 0.01
        return pairs

    monkeypatch.setattr(prepared, "with_reference", shifted)
    with pytest.raises(ValueError, match=r"by 0\.01 nats, .* token 0 .* rejected .* of row \d+ of pairs"):
        train(config())


def test_reference_log_probs_from_the_data_are_used_and_checked(config, tmp_path) -> None:
    columns = {"ref_chosen_logps": [-100.0] * 16, "ref_rejected_logps": [-100.0] * 16}
    data = write_pairs(tmp_path / "given.jsonl", rows=16, **columns)
    settings = config(data=DataConfig(path=str(data), eval_fraction=0.0, cache_dir=str(tmp_path / "cache")))
    with pytest.raises(ValueError, match=r"^In given\.jsonl, row 1 \(the first of 16\) has the ref_chosen_logps -100"):
        train(settings)


@pytest.mark.slow
def test_reference_log_probs_are_computed_once_and_read_from_the_cache_afterwards(
    config, tmp_path, monkeypatch
) -> None:
    from iwpo_fast.models import reference

    train(config())
    monkeypatch.setattr(reference, "_compute", lambda *_: pytest.fail("computed again"))
    train(config(output_dir=str(tmp_path / "again")))


def test_a_dry_run_prints_the_plan_and_writes_nothing(config, capsys) -> None:
    settings = config(dry_run=True)
    assert train(settings) is None
    printed = capsys.readouterr().out
    assert "8 steps" in printed
    assert "parameters train" in printed
    assert not Path(settings.output_dir).exists()


@pytest.mark.slow
def test_deterministic_training_fills_no_memory_and_leaves_the_process_as_it_was(config, monkeypatch) -> None:
    step, seen = loop.train_step, []

    def watched(*arguments) -> object:
        fills = torch.utils.deterministic.fill_uninitialized_memory
        seen.append((torch.are_deterministic_algorithms_enabled(), fills))
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", watched)
    optim = OptimConfig(pairs_per_step=8, max_steps=2)
    train(config(optim=optim, deterministic=True))
    assert seen == [(True, False)] * 2
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_tensorboard_gets_the_metrics_that_the_file_gets(config) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = config(log=LogConfig(every=1, trackers=["tensorboard"]))
    train(settings)
    events = EventAccumulator(str(Path(settings.output_dir) / "tensorboard"))
    events.Reload()
    written = [m["loss"] for m in metrics_of(settings) if "loss" in m]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(written, rel=1e-6)
