"""DRDO from pairs to student: an oracle, its scores, and a policy that learns them by a head of its own, beside DPO.

A completion is six words, and its true reward the sum of what they are worth. Labels are drawn by Bradley-Terry, in
half of the training pairs between completions of equal reward, so that these labels are coins. All of it, from the
supervised model to the scores of held-out texts, is done by `iwpo_fast`, on its built-in model.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iwpo_fast.config import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    RewardConfig,
    RunConfig,
    TinyConfig,
    TrainConfig,
    TuningConfig,
    WeightConfig,
)
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.files import load_tensors
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.reference import logps_as_it_is
from iwpo_fast.pipeline import run
from iwpo_fast.rewards.own_reward import OwnReward
from iwpo_fast.training import train
from iwpo_fast.world import World
from lab.systems.shown import Shown

CLAIM = (
    "In every seed, the student's own rewards order at least 80 % of the held-out pairs as the oracle does; and on "
    "training pairs whose labels are coins, its margins end at no more than 1.5 times the oracle's in root mean "
    "square, while those of DPO grow from each evaluation to the next and end above 3 times the oracle's."
)
AGREEMENT, NEAR_ORACLE, FAR_FROM_ORACLE = 0.8, 1.5, 3.0
SEEDS, PAIRS, HELD_OUT, EPOCHS = 3, 400, 200, 40
WORDS = (
    *("amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heron", "ivory", "jade", "knoll", "lotus"),
    *("maple", "north", "ocean", "pearl", "quartz", "raven", "stone", "tulip", "umber", "violet", "willow", "zinc"),
)
LENGTH, WORTH, EQUAL = 6, 0.8, 0.05
DRDO, DPO = "DRDO", "DPO"
BETA = 0.1
OBJECTIVES = {DRDO: ObjectiveConfig("drdo", reward_head_lr=1e-2), DPO: ObjectiveConfig("sigmoid", beta=BETA)}
"""Margins of both are in log-odds: the student's of its own rewards, DPO's β times the log-ratio."""

RANGES = (
    *("student_oracle", "dpo_oracle", "oracle_truth", "student_truth", "dpo_truth"),
    *("student_labels", "dpo_labels", "student_likelihood_coins"),
)

Floats = NDArray[np.float64]
Row = dict[str, Any]


def show(*, short: bool) -> Shown:
    seeds, pairs, held_out, epochs = (1, 40, 20, 4) if short else (SEEDS, PAIRS, HELD_OUT, EPOCHS)
    with TemporaryDirectory() as folder:
        found = [in_world(seed, pairs, held_out, epochs, Path(folder) / str(seed)) for seed in range(seeds)]
    holds = all(
        of_seed["student_oracle"] >= AGREEMENT
        and of_seed["coins"][DRDO][-1] <= NEAR_ORACLE * of_seed["oracle_coins"]
        and of_seed["coins"][DPO][-1] > FAR_FROM_ORACLE * of_seed["oracle_coins"]
        and bool((np.diff(of_seed["coins"][DPO]) > 0).all())
        for of_seed in found
    )
    after = [*found[0]["epochs"]]
    rows: list[tuple[str, ...]] = [
        ("margins on coins, root mean square", *(f"after {epoch:g} epochs" for epoch in after))
    ]
    rows += [(arm, *(_range([of["coins"][arm][i] for of in found]) for i in range(len(after)))) for arm in OBJECTIVES]
    rows.append(("oracle", *[_range([of["oracle_coins"] for of in found])] * len(after)))
    ranges = {name: _range([of_seed[name] for of_seed in found]) for name in RANGES}
    note = (
        f"Least to most of {seeds} seeds, in log-odds; {pairs} training pairs, half of them coins, {held_out} held-out "
        "pairs. Share of held-out pairs that are ordered as the oracle does: student's own rewards "
        f"{ranges['student_oracle']}, DPO's margins {ranges['dpo_oracle']}; as the true rewards do: oracle "
        f"{ranges['oracle_truth']}, student {ranges['student_truth']}, DPO {ranges['dpo_truth']}. Share of the coins "
        f"whose label the margin has taken up: student {ranges['student_labels']}, DPO {ranges['dpo_labels']}. "
        f"{BETA:g} times the log-ratio of the student's likelihoods, of which the claim says nothing, ends on coins at "
        f"{ranges['student_likelihood_coins']}."
    )
    return Shown(CLAIM, holds, rows, {"found": found, "pairs": pairs, "held_out": held_out}, note)


def in_world(seed: int, pairs: int, held_out: int, epochs: int, folder: Path) -> dict[str, Any]:
    """What came of a world: agreements, and margins at each evaluation."""
    folder.mkdir()
    rows = rows_of(seed, pairs, held_out)
    with contextlib.redirect_stdout(io.StringIO()):
        base = _supervised(rows[:pairs], seed, folder)
        scored = _scored(rows, base, seed, folder)
        evaluated = [*scored[pairs:], *(row for row in scored[:pairs] if row["coin"])]
        runs = {arm: _trained(arm, scored[:pairs], evaluated, base, seed, epochs, folder) for arm in OBJECTIVES}
        margins = {arm: _margins(path) for arm, path in runs.items()}
        student = OwnReward.load(runs[DRDO], device="cpu")
        own = _gaps(student, scored[pairs:])
        ratio = _log_ratio(str(runs[DRDO] / "model"), base.path, folder)
    oracle = np.array([row["oracle"] for row in evaluated])
    truth = np.array([row["truth"] for row in evaluated])
    out, coins = slice(held_out), slice(held_out, None)
    assert np.allclose(own, margins[DRDO][-1][out], atol=1e-3), "texts are scored as they were in training"
    last = {arm: of_arm[-1] for arm, of_arm in margins.items()}
    return {
        "student_oracle": _same(own, oracle[out]),
        "dpo_oracle": _same(last[DPO][out], oracle[out]),
        "oracle_truth": _same(oracle[out], truth[out]),
        "student_truth": _same(own, truth[out]),
        "dpo_truth": _same(last[DPO][out], truth[out]),
        "student_labels": float((last[DRDO][coins] > 0).mean()),
        "dpo_labels": float((last[DPO][coins] > 0).mean()),
        "oracle_coins": _size(oracle[coins]),
        "student_likelihood_coins": BETA * _size(ratio[coins]),
        "coins": {arm: [_size(m[coins]) for m in of_arm[1:]] for arm, of_arm in margins.items()},
        "epochs": [epochs * (i + 1) / (len(margins[DPO]) - 1) for i in range(len(margins[DPO]) - 1)],
    }


def rows_of(seed: int, pairs: int, held_out: int) -> list[Row]:
    """Pairs of completions with their labels drawn; every other one of the training pairs is a coin."""
    draw = np.random.default_rng(seed)
    worth = WORTH * draw.standard_normal(len(WORDS))
    rows: list[Row] = []
    for number in range(pairs + held_out):
        coin = number < pairs and number % 2 == 0
        first, second = draw.integers(len(WORDS), size=(2, LENGTH))
        while coin and (abs(worth[first].sum() - worth[second].sum()) > EQUAL or (first == second).all()):
            first, second = draw.integers(len(WORDS), size=(2, LENGTH))
        gap = float(worth[first].sum() - worth[second].sum())
        if draw.random() > 1 / (1 + np.exp(-gap)):
            first, second, gap = second, first, -gap
        texts = {name: " ".join(WORDS[i] for i in words) for name, words in (("chosen", first), ("rejected", second))}
        rows.append({"prompt": f"{number}: ", **texts, "coin": coin, "truth": gap})
    return rows


def _supervised(rows: Sequence[Row], seed: int, folder: Path) -> ModelConfig:
    """The built-in model after supervised training on the chosen completions, from which everything starts."""
    config = TrainConfig(
        data=_data(_written(folder / "sft.jsonl", rows), folder),
        model=ModelConfig(tiny=TinyConfig(vocab_size=512, hidden_size=64, layers=2, heads=2)),
        objective=ObjectiveConfig("sft"),
        optim=_optim(epochs=5),
        checkpoint=CheckpointConfig(every=None),
        output_dir=str(folder / "sft"),
        seed=seed,
        device="cpu",
    )
    train(config)
    return ModelConfig(path=str(folder / "sft" / "model"))


def _scored(rows: Sequence[Row], base: ModelConfig, seed: int, folder: Path) -> list[Row]:
    """The rows with scores of a fine-tuned oracle that never saw their prompts."""
    tuning = TuningConfig(LoraConfig(rank=8), _optim(epochs=10), language_modelling=0.1)
    config = RunConfig(
        data=_data(_written(folder / "all.jsonl", rows), folder),
        model=base,
        clusters=ClusterConfig(count=1, backend="sklearn"),
        rewards=RewardConfig(heads="linear", folds=2, ensemble=1, tuning=tuning),
        weights=WeightConfig(form="off"),
        output_dir=str(folder / "oracle"),
        seed=seed,
        device="cpu",
    )
    for stage in ("prepare", "reference", "cluster", "reward", "weigh"):
        run(config, only=stage)
    lines = (folder / "oracle" / "weights" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    of_prompt = {row["prompt"]: row for row in map(json.loads, lines)}
    scored = []
    for row in rows:
        scores = {side: float(np.mean(of_prompt[row["prompt"]][f"scores_{side}"])) for side in ("chosen", "rejected")}
        named = {f"score_{side}": score for side, score in scores.items()}
        scored.append(row | named | {"oracle": scores["chosen"] - scores["rejected"]})
    return scored


def _trained(
    arm: str, rows: Sequence[Row], evaluated: Sequence[Row], base: ModelConfig, seed: int, epochs: int, folder: Path
) -> Path:
    """The folder of a run, evaluated four times on its way."""
    data = _data(_written(folder / "train.jsonl", rows), folder)
    optim = _optim(epochs=epochs)
    steps = epochs * -(-len(rows) // optim.pairs_per_step)
    config = TrainConfig(
        data=replace(data, eval_path=_written(folder / "eval.jsonl", evaluated)),
        model=base,
        objective=OBJECTIVES[arm],
        optim=optim,
        log=LogConfig(every=steps, eval_every=steps // 4),
        checkpoint=CheckpointConfig(every=None),
        output_dir=str(folder / arm),
        seed=seed,
        device="cpu",
    )
    train(config)
    return folder / arm


def _optim(*, epochs: float) -> OptimConfig:
    return OptimConfig(lr=1e-3, epochs=epochs, pairs_per_step=40, schedule="constant", warmup_fraction=0.05)


def _data(path: str, folder: Path) -> DataConfig:
    return DataConfig(path=path, eval_fraction=0.0, max_length=64, cache_dir=str(folder / "cache"))


def _written(path: Path, rows: Sequence[Row]) -> str:
    kept = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected")
    lines = [json.dumps({name: row[name] for name in kept if name in row}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def _margins(folder: Path) -> list[Floats]:
    """Of the evaluated pairs, at each evaluation from the one before the first step on."""
    return [load_tensors(path)["margin"] for path in sorted((folder / "held_out").iterdir())]


def _log_ratio(model: str, base: str, folder: Path) -> Floats:
    """Of the evaluated pairs, how much more than before training the model prefers the chosen completion."""
    data, alone = _data(str(folder / "eval.jsonl"), folder), World.start("cpu")

    def margins(path: str) -> Floats:
        config = ModelConfig(path=path)
        tokenizer = load_tokenizer(config, ())
        policy = load_policy(config, tokenizer, alone, seed=0)
        pairs, _ = tokenise(read_rows(data)[0], tokenizer, data)
        logps, _ = logps_as_it_is(policy, pairs, alone, tokens_per_batch=4096)
        return (logps[:, 0] - logps[:, 1]).astype(np.float64)

    return margins(model) - margins(base)


def _gaps(student: OwnReward, rows: Sequence[Row]) -> Floats:
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (student.score(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected"))
    return chosen - rejected


def _same(first: Floats, second: Floats) -> float:
    return float((np.sign(first) == np.sign(second)).mean())


def _size(values: Floats) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
