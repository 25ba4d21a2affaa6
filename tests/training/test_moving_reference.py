"""A reference that moves (TR-DPO): when, how far, and that a run with one resumes bitwise."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from killed_runs import kill_during_training, run_killed
from safetensors.torch import load_file

from iwpo_fast.cli import main
from iwpo_fast.config import (
    CheckpointConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    ReferenceSyncConfig,
    TinyConfig,
)
from iwpo_fast.training import Callback, Run, train

TINY = TinyConfig(vocab_size=320, hidden_size=32, layers=2, heads=2)


class Watch(Callback):
    """Keeps the policy's weights at every step, and the reference log-probs that the next step reads."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.run: Run | None = None

    def on_begin(self, run: Run) -> None:
        self._keep(run)

    def on_step(self, run: Run, metrics) -> None:
        self._keep(run)

    def _keep(self, run: Run) -> None:
        named = run.job.policy.trainable_parameters().items()
        self.weights[run.state.step] = {name: p.detach().clone() for name, p in named}
        self.run = run


def test_every_so_many_steps_the_reference_becomes_a_mean_of_policy_and_reference(config) -> None:
    watch = Watch()
    train(config(reference_sync=ReferenceSyncConfig(alpha=0.25, steps=3)), callbacks=[watch])
    at = watch.weights
    assert watch.run is not None and watch.run.moving is not None
    for name, weight in watch.run.moving.weights.items():
        after_3 = 0.75 * at[0][name] + 0.25 * at[3][name]
        after_6 = 0.75 * after_3 + 0.25 * at[6][name]
        assert torch.allclose(weight, after_6, atol=1e-7)
    # The policy is what it was before the pass, in which it had the weights of the reference.
    assert all(p.equal(at[8][n]) for n, p in watch.run.job.policy.trainable_parameters().items())


@pytest.mark.parametrize("objective", ["sigmoid", "bco", "ld_dpo"])
def test_a_step_reads_the_log_probs_of_the_reference_of_then(config, objective) -> None:
    watch = Watch()
    settings = config(
        reference_sync=ReferenceSyncConfig(alpha=1.0, steps=2),
        objective=ObjectiveConfig(name=objective),
        log=LogConfig(every=1, eval_every=1),
    )
    settings.optim.max_steps = 3
    train(settings, callbacks=[watch])
    run = watch.run
    assert run is not None
    policy, rows = run.job.policy, run.job.rows_of_step(2)
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters().items():
            parameter.copy_(watch.weights[2][name])
        from iwpo_fast.training.reference_columns import own_logps

        assert np.allclose(run.job.pairs.ref_logps[rows], own_logps(run.job, rows)[rows], atol=1e-4)
        held_out = run.job.evaluation
        everything = np.arange(len(held_out.pairs))
        assert np.allclose(held_out.pairs.ref_logps, own_logps(held_out, everything), atol=1e-4)
    tokens = run.job.pairs.ref_token_logps
    sums = np.stack([[part[row].sum() for row in rows] for part in tokens], axis=1)
    assert np.allclose(sums, run.job.pairs.ref_logps[rows], atol=1e-4)


def lines(config) -> list[dict]:
    found = map(json.loads, (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if not name.startswith("perf/")} for line in found]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["all weights", "adapter"])
@pytest.mark.parametrize("every", [3, 4], ids=["within two moves", "at a move"])
def test_a_killed_run_resumes_bitwise(config, tmp_path, lora, every) -> None:
    parts = {
        "reference_sync": ReferenceSyncConfig(alpha=1.0 if lora else 0.5, steps=2),
        "model": ModelConfig(tiny=TINY, lora=lora),
        "log": LogConfig(every=1, eval_every=2),
        "checkpoint": CheckpointConfig(every=every),
    }
    whole = config(**parts, output_dir=str(tmp_path / "whole"))
    part = config(**parts, output_dir=str(tmp_path / "part"))
    train(whole)
    run_killed(part, kill_during_training, tmp_path)
    train(part)
    assert lines(part) == lines(whole)
    names = ["model/model.safetensors", "checkpoints/step-00000008/weights.safetensors"]
    for name in names:
        one, other = (load_file(tmp_path / run / name) for run in ("whole", "part"))
        assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)
    assert any(name.startswith("reference.") for name in one)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--objective.name", "simpo"], "the objective simpo reads no reference: leave reference_sync out"),
        (["--model.lora.rank", "2"], "reference_sync.alpha is 0.6 and an adapter is trained"),
        (["--model.reference", "other"], "model.reference is other and reference_sync is set"),
        (["--reference_sync.alpha", "0"], "reference_sync.alpha"),
    ],
)
def test_what_cannot_move_is_one_sentence(config, tmp_path, capsys, flags, sentence) -> None:
    recipe = tmp_path / "recipe.yaml"
    settings = config(model=ModelConfig(tiny=TINY))
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(settings)))))
    assert main(["train", "--config", str(recipe), "--reference_sync.steps", "2", *flags]) == 2
    assert sentence in capsys.readouterr().err
