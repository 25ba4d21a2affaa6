"""A training that diverges ends with what was not finite first, and saves nothing of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_on_ranks
from safetensors.torch import load_file
from toy_pairs import write_pairs

from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TinyConfig,
    TrainConfig,
)
from iwpo_fast.finite import local_part, not_finite
from iwpo_fast.models import load_policy
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.training import checkpoint, loop, step, train
from iwpo_fast.training.job import Job
from iwpo_fast.world import World

TINY = TinyConfig(vocab_size=320, hidden_size=32, layers=2, heads=2)
RARE = CheckpointConfig(every=3)


def saved(folder: Path) -> list[Path]:
    """Models and checkpoints; the margins of evaluations are numbers of a report."""
    return sorted(path for path in folder.rglob("*.safetensors") if path.parent.name != "held_out")


def all_finite(folder: Path) -> bool:
    return all(not_finite(load_file(path)) == [] for path in saved(folder))


@pytest.mark.parametrize("bad", [{"lr": 1e38}, {"lr": 1e-3, "weight_decay": 1e42}], ids=["rate", "decay"])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["all weights", "adapter"])
def test_weights_that_the_last_update_made_infinite_are_not_saved(config, bad, lora) -> None:
    optim = OptimConfig(pairs_per_step=8, max_steps=1, warmup_fraction=0.0, **bad)
    settings = config(optim=optim, model=ModelConfig(tiny=TINY, lora=lora))
    with pytest.raises(ValueError, match=r"^the update of step 1 made (\w+ of )?\S+ not finite, with the pairs of row"):
        train(settings)
    assert saved(Path(settings.output_dir)) == []
    assert not (Path(settings.output_dir) / "summary.json").exists()


def test_weights_that_an_update_between_two_lines_made_infinite_are_named(config) -> None:
    optim = OptimConfig(pairs_per_step=8, max_steps=8, epochs=4, warmup_fraction=0.0, lr=1e38)
    settings = config(optim=optim, log=LogConfig(every=100), checkpoint=CheckpointConfig(every=100))
    with pytest.raises(ValueError, match=r"^at step 2 model\.\S+ is not finite, after the update of the step before"):
        train(settings)
    assert saved(Path(settings.output_dir)) == []


@pytest.fixture
def weighted(config, tmp_path) -> Callable[..., TrainConfig]:
    """A configuration of 4 steps with 10 of 40 pairs each, of which one has another weight."""

    def make(weight: float, **parts: object) -> TrainConfig:
        data = write_pairs(tmp_path / "pairs.jsonl", rows=40, weight=[1.0] * 16 + [weight] + [1.0] * 23)
        settings: dict[str, object] = {
            "data": DataConfig(path=str(data), eval_fraction=0.0, cache_dir=str(tmp_path / "cache")),
            "optim": OptimConfig(lr=1e-3, pairs_per_step=10, max_steps=4, max_pairs_per_batch=2),
            "log": LogConfig(every=100),
            "checkpoint": CheckpointConfig(every=100),
        }
        return config(**(settings | parts))

    return make


def message_of(settings: TrainConfig) -> str:
    with pytest.raises(ValueError) as refusal:
        train(settings)
    return str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "what"), [("sigmoid", "the norm of the gradient"), ("ipo", "the loss")], ids=["gradient", "loss"]
)
def test_the_step_its_pairs_and_what_was_bad_are_named_when_the_line_is_due(weighted, objective, what) -> None:
    """It overflows float32, in a step in the middle of two lines."""
    settings = weighted(1e38, objective=ObjectiveConfig(name=objective, beta=0.01))
    said = message_of(settings)
    assert re.match(rf"at step [234] {what} is not finite, with the pairs? of row", said)
    assert "row 17 of pairs.jsonl" in said
    assert saved(Path(settings.output_dir)) == []


def weights_by_step(settings: TrainConfig) -> list[tuple[bool, np.ndarray]]:
    """Whether the gradient was finite, and the weights after it, of every step of a training that diverges."""
    step, seen = loop.train_step, []

    def watched(job: Job, *arguments: Any) -> torch.Tensor:
        norm = step(job, *arguments)
        parameters = job.policy.trainable_parameters().values()
        weights = torch.cat([local_part(p.detach()).flatten() for p in parameters])
        seen.append((bool(norm.isfinite()), weights.numpy().copy()))
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", watched)
        assert message_of(settings).startswith(f"at step {[finite for finite, _ in seen].index(False) + 1} ")
    return seen


@pytest.mark.parametrize("shard_over", [1, pytest.param("all", marks=pytest.mark.slow)])
def test_no_step_is_taken_from_the_bad_one_on(weighted, shard_over) -> None:
    settings = weighted(1e38, shard_over=shard_over)
    every = [weights_by_step(settings)] if shard_over == 1 else run_on_ranks(2, weights_by_step, settings)
    for seen in every:
        bad = [finite for finite, _ in seen].index(False)
        assert 0 < bad < 3, "the case has good steps before and steps behind"
        for _, after in seen[bad:]:
            np.testing.assert_array_equal(after, seen[bad - 1][1])
        assert len({float(weights.sum()) for _, weights in seen[:bad]}) == bad


@pytest.mark.slow
@pytest.mark.parametrize("shard_over", [1, "all"])
def test_the_pair_of_one_rank_stops_all_with_one_sentence(weighted, shard_over) -> None:
    settings = weighted(1e38, shard_over=shard_over)
    said = run_on_ranks(2, message_of, settings)
    assert said[0] == said[1]
    assert "not finite, with the pair" in said[0] and "row 17 of pairs.jsonl" in said[0]
    assert saved(Path(settings.output_dir)) == []


@pytest.mark.slow
def test_checkpoints_of_before_are_whole_and_the_run_goes_on_from_them(config, monkeypatch) -> None:
    """Step 5 is bad only once, as when a machine fails."""
    backward, calls = step.backward, []

    def failing(loss: torch.Tensor) -> None:
        calls.append(1)
        backward(loss * torch.inf if len(calls) == failing.at else loss)  # one micro-batch a step

    failing.at = 5
    monkeypatch.setattr(step, "backward", failing)
    settings = config(checkpoint=RARE, log=LogConfig(every=100))
    assert message_of(settings).startswith("at step 5 the norm of the gradient is not finite, with the pair")
    folder = Path(settings.output_dir)
    assert [path.name for path in checkpoint.checkpoints(folder / "checkpoints")] == ["step-00000003"]
    assert all_finite(folder)
    failing.at = 0
    assert train(settings).steps == 8
    assert all_finite(folder) and (folder / "model" / "model.safetensors").exists()


def test_a_model_that_is_too_large_for_its_type_is_not_saved(tmp_path) -> None:
    tokenizer = train_tokenizer(["some text"] * 4, 300)
    policy = load_policy(ModelConfig(tiny=TINY), tokenizer, World(0, 1, torch.device("cpu")), seed=0)
    with torch.no_grad():
        policy.model.lm_head.weight[3, 2] = 1e6
    policy.save(tmp_path / "wide", tokenizer)
    with pytest.raises(ValueError, match=r"^the model is not saved, because \S+ is not finite in the type"):
        policy.save(tmp_path / "half", tokenizer, dtype=torch.float16)
    assert not (tmp_path / "half").exists()
