"""Three steps of the loop against the same steps written out in plain PyTorch on the model's own logits."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_pairs import write_pairs

from iwpo_fast.config import DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
from iwpo_fast.data import Pairs, read_rows, tokenise
from iwpo_fast.data.order import step_rows
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.training import train
from iwpo_fast.world import World

ROWS = 17  # steps of 7, 7 and 3 pairs


def sequence_logp(model: torch.nn.Module, prompt: np.ndarray, completion: np.ndarray, average: bool) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *completion]], dtype=torch.long)
    logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
    return logps.mean() if average else logps.sum()


def plain_losses(model: torch.nn.Module, pairs: Pairs, config: TrainConfig) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    reference = copy.deepcopy(model).eval()
    optim, objective = config.optim, config.objective
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=optim.betas, eps=optim.eps, weight_decay=0.0)
    average, logged = objective.name == "ipo", []
    for step in range(3):
        rows = step_rows(ROWS, step, pairs_per_step=optim.pairs_per_step, seed=config.seed)
        total = torch.zeros(())
        for row in rows:
            ratios = []
            for part in (pairs.chosen, pairs.rejected):
                own = sequence_logp(model, pairs.prompt[row], part[row], average)
                ratios.append(own - sequence_logp(reference, pairs.prompt[row], part[row], average).detach())
            h = ratios[0] - ratios[1]
            if average:
                sides = [(sign * h - 1 / (2 * objective.beta)) ** 2 for sign in (1, -1)]
            else:
                sides = [-torch.log(torch.sigmoid(sign * objective.beta * h)) for sign in (1, -1)]
            smoothing = float(pairs.label_smoothing[row])
            total = total + float(pairs.weight[row]) * ((1 - smoothing) * sides[0] + smoothing * sides[1])
        by_weights = objective.normalize == "weights"
        loss = total / (float(pairs.weight[rows].sum()) if by_weights else len(rows))
        loss.backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1.0, optim.max_grad_norm / (float(norm) + 1e-6))
        optimizer.param_groups[0]["lr"] = optim.lr * [1 / 2, 1.0, 1.0][step]  # a warm-up of two steps, then the peak
        optimizer.step()
        optimizer.zero_grad()
        logged.append((loss.item(), norm.item()))
    return logged


@pytest.mark.slow
@pytest.mark.parametrize("normalize", ["count", "weights"])
@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_weighted_smoothed_clipped_steps_are_those_of_plain_pytorch(config, tmp_path, name, normalize) -> None:
    data = write_pairs(
        tmp_path / "weighted.jsonl",
        rows=ROWS,
        weight=[0.3 * (i % 5) for i in range(ROWS)],
        label_smoothing=[0.15 * (i % 3) for i in range(ROWS)],
    )
    settings = config(
        data=DataConfig(path=str(data), eval_fraction=0.0, cache_dir=str(tmp_path / "cache")),
        objective=ObjectiveConfig(name=name, beta=0.3, normalize=normalize),
        optim=OptimConfig(
            lr=5e-3,
            pairs_per_step=7,
            epochs=1,
            max_pairs_per_batch=3,
            max_grad_norm=0.5,
            warmup_fraction=0.5,
            schedule="constant",
        ),
    )
    rows, _ = read_rows(settings.data)
    tokenizer = load_tokenizer(settings.model, rows.texts())
    pairs, _ = tokenise(rows, tokenizer, settings.data)
    policy = load_policy(settings.model, tokenizer, World(0, 1, torch.device("cpu")), seed=settings.seed)
    with policy.plain_attention() as model:
        expected = plain_losses(model, pairs, settings)
    train(settings)
    lines = (Path(settings.output_dir) / "metrics.jsonl").read_text().splitlines()
    logged = [(metrics["loss"], metrics["grad_norm"]) for metrics in map(json.loads, lines)]
    assert np.array(logged) == pytest.approx(np.array(expected), rel=2e-5)
    assert logged[2][0] != pytest.approx(logged[0][0], rel=1e-3)
