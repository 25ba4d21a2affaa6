"""Objectives that compare all candidates of a row: through the loop they are the loss of all log-probs at once."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from toy_pairs import WORDS

from iwpo_fast.cli import main
from iwpo_fast.config import (
    DataConfig,
    LogConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ReferenceSyncConfig,
    TinyConfig,
    TrainConfig,
)
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.ranked import with_candidates_between
from iwpo_fast.models import Policy, load_policy, load_tokenizer
from iwpo_fast.models.reference import with_reference, with_reference_of_all
from iwpo_fast.objectives.rankings import plackett_luce
from iwpo_fast.objectives.spo import best_of, ranked
from iwpo_fast.training import train
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.world import World

ALONE = World(0, 1, torch.device("cpu"))
TINY = TinyConfig(vocab_size=320, hidden_size=32, layers=2, heads=2)
ROWS = 16


def candidate_rows(seed: int = 0, most: int = 5) -> list[dict]:
    """Two to five candidates of each prompt, in no order, one of some without a score."""
    rng = random.Random(seed)
    rows = []
    for i in range(ROWS):
        count = rng.randint(2, most)
        candidates = [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) + f" {k}" for k in range(count)]
        scores: list[float | None] = [round(rng.random(), 3) for _ in range(count)]
        if i % 5 == 0:
            candidates, scores = [*candidates, "unknown"], [*scores, None]
        prompt = "say: " + " ".join(rng.choices(WORDS, k=3)) + f" {i}\n"
        rows.append({"prompt": prompt, "candidates": candidates, "candidate_scores": scores, "weight": 0.5 + i % 3})
    return rows


@pytest.fixture
def data_of(tmp_path) -> Callable[..., DataConfig]:
    def make(rows: list[dict], **settings: object) -> DataConfig:
        path = tmp_path / "candidates.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"eval_fraction": 0.0, "cache_dir": str(tmp_path / "cache")} | settings
        return DataConfig(path=str(path), **given)

    return make


@pytest.fixture
def known(data_of) -> tuple[Policy, Pairs, list[dict]]:
    """A policy, the pairs with what lies between them, and the rows."""
    rows = candidate_rows()
    data, model = data_of(rows), ModelConfig(tiny=TINY)
    read, _ = read_rows(data)
    tokenizer = load_tokenizer(model, read.texts())
    pairs, _ = tokenise(read, tokenizer, data)
    policy = load_policy(model, tokenizer, ALONE, seed=0)
    policy.causal_lm.get_output_embeddings().weight.data.mul_(4)
    return policy, with_candidates_between(pairs, read, "spo_ranked"), rows


def texts_in_order(row: dict) -> list[str]:
    scored = [(s, c) for c, s in zip(row["candidates"], row["candidate_scores"], strict=True) if s is not None]
    return [text for _, text in sorted(scored, key=lambda one: -one[0])]


def log_probs(policy: Policy, pairs: Pairs, pair: int) -> torch.Tensor:
    """[K] of a pair's completions from the best to the worst, each by the model's own logits, with gradient."""
    begin, end = pairs.between.offsets[pair : pair + 2]
    between = [pairs.between.completions[row] for row in range(begin, end)]
    found = []
    with policy.plain_attention() as model:
        for completion in (pairs.chosen[pair], *between, pairs.rejected[pair]):
            ids = torch.from_numpy(np.concatenate([pairs.prompt[pair], completion]).astype(np.int64))
            logps = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])
            found.append(logps[-len(completion) :].sum())
    return torch.stack(found).double()


def test_candidates_stand_between_their_pair_in_the_order_of_their_scores(known) -> None:
    _, pairs, rows = known
    counts = [len(texts_in_order(row)) - 2 for row in rows]
    assert pairs.between.counts.tolist() == counts and max(counts) == 3
    assert (pairs.tokens == pairs.tokens_laid_out + (1 + np.array(counts)) * pairs.prompt.lengths).all()
    alone = dataclasses.replace(pairs, between=None)
    assert (pairs.tokens_laid_out - alone.tokens_laid_out == pairs.between.tokens).all()
    taken = pairs.take(np.array([7, 2]))
    assert taken.between.counts.tolist() == [counts[7], counts[2]]
    assert pairs.fingerprint() != alone.fingerprint()


@pytest.mark.parametrize("layout", ["shared", "flat", "padded"])
@pytest.mark.parametrize("name", ["spo_ranked", "spo_best"])
def test_loss_and_gradient_are_those_of_all_log_probs_at_once(known, name, layout) -> None:
    policy, pairs, _ = known
    policy.eval()
    if layout == "padded":
        policy.run_padded("for this test")
    elif layout == "flat":
        policy.run_flat("for this test", policy.attention)
    rows = np.array([3, 0, 9, 12])
    loss = PreferenceLoss(ObjectiveConfig(name, params={"alpha": 0.3}))
    batch = flat_batch(pairs, rows)
    output = loss(loss.token_logps(policy, batch), batch, 4.0, {})
    weight = policy.causal_lm.model.layers[0].self_attn.q_proj.weight
    (found,) = torch.autograd.grad(output.loss, [weight])

    each = [log_probs(policy, pairs, int(row))[None] for row in rows]
    first = torch.zeros(1, dtype=torch.int64)
    losses = [ranked(one, 0.3) if name == "spo_ranked" else best_of(one, first, 0.3) for one in each]
    expected = (torch.cat(losses) * torch.from_numpy(pairs.weight[rows])).sum() / 4
    (gradient,) = torch.autograd.grad(expected, [weight])
    assert float(output.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-6)


def test_in_a_mixture_other_objectives_see_the_pairs_alone(known) -> None:
    policy, pairs, _ = known
    policy.eval()
    tokens = [Ragged(-np.ones(len(side.values), np.float32), side.offsets) for side in (pairs.chosen, pairs.rejected)]
    sums = np.stack([[-1.0 * len(side[row]) for row in range(len(pairs))] for side in tokens], axis=1)
    pairs = dataclasses.replace(pairs, ref_logps=sums.astype(np.float32), ref_token_logps=(tokens[0], tokens[1]))
    others, rows = {"sigmoid": 0.5, "ld_dpo": 0.5, "wpo": 1.0}, np.arange(6)

    def value(name: dict[str, float], given: Pairs) -> float:
        loss, batch = PreferenceLoss(ObjectiveConfig(name)), flat_batch(given, rows, ref_tokens=True)
        return float(loss(loss.token_logps(policy, batch), batch, 1.0, {}).loss.detach())

    alone = value({"spo_ranked": 1.0}, pairs)
    without = value(others, dataclasses.replace(pairs, between=None))
    assert value({"spo_ranked": 1.0} | others, pairs) == pytest.approx(alone + without, rel=1e-5)


def test_a_pair_of_weight_0_gives_its_candidates_no_gradient(known) -> None:
    policy, pairs, _ = known
    pairs = dataclasses.replace(pairs, weight=np.zeros(len(pairs)))
    loss, batch = PreferenceLoss(ObjectiveConfig("spo_ranked")), flat_batch(pairs, np.arange(4))
    loss(loss.token_logps(policy, batch), batch, 1.0, {}).loss.backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in policy.parameters())


def test_the_reference_of_all_is_that_of_each_completion_alone(known, tmp_path) -> None:
    policy, pairs, _ = known
    settings = {"tokens_per_batch": 200, "workers": 0}
    found = with_reference_of_all(policy, pairs, ALONE, tmp_path, **settings)
    assert found.candidates is None and found.between.offsets is pairs.between.offsets
    for pair in (0, 4, 9):
        begin, end = pairs.between.offsets[pair : pair + 2]
        given = [found.ref_logps[pair, 0], *found.between.ref_logps[begin:end], found.ref_logps[pair, 1]]
        np.testing.assert_allclose(given, log_probs(policy, pairs, pair).detach(), rtol=1e-5)
    alone = with_reference(policy, dataclasses.replace(pairs, between=None), ALONE, tmp_path, **settings)
    assert np.array_equal(alone.ref_logps, found.ref_logps)
    again = with_reference_of_all(policy, pairs, ALONE, tmp_path, **settings)
    assert np.array_equal(again.between.ref_logps, found.between.ref_logps)
    taken = found.take(np.array([9, 4]))
    assert np.array_equal(taken.between.ref_logps[: taken.between.counts[0]], found.between.ref_logps[begin:end])


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_dpo_of_rankings_is_plackett_luce_of_log_ratios(known, tmp_path, layout) -> None:
    policy, pairs, _ = known
    policy.eval()
    pairs = with_reference_of_all(policy, pairs, ALONE, tmp_path, tokens_per_batch=4000)
    rows = np.array([3, 0, 9, 12])
    reference = [log_probs(policy, pairs, int(row)).detach() for row in rows]
    weight = policy.causal_lm.model.layers[0].self_attn.q_proj.weight
    weight.data.mul_(3)
    if layout == "padded":
        policy.run_padded("for this test")
    loss = PreferenceLoss(ObjectiveConfig("dpo_ranked", beta=0.3))
    batch = flat_batch(pairs, rows)
    tokens = loss.token_logps(policy, batch)
    output = loss(tokens, batch, 4.0, {})
    (found,) = torch.autograd.grad(output.loss, [weight], retain_graph=True)
    ratios = [log_probs(policy, pairs, int(row)) - of for row, of in zip(rows, reference, strict=True)]
    losses = torch.stack([plackett_luce(0.3 * one[None])[0] for one in ratios])
    expected = (losses * torch.from_numpy(pairs.weight[rows])).sum() / 4
    (gradient,) = torch.autograd.grad(expected, [weight])
    assert float(output.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(loss.log_likelihood(tokens, batch), -losses.detach(), rtol=1e-4, atol=1e-5)


def test_the_likelihood_of_an_order_of_two_is_that_of_the_pair(known, tmp_path) -> None:
    policy, pairs, _ = known
    policy.eval()
    pairs = with_reference_of_all(policy, pairs, ALONE, tmp_path, tokens_per_batch=4000)
    policy.causal_lm.model.layers[0].self_attn.q_proj.weight.data.mul_(3)
    batch = flat_batch(pairs, np.flatnonzero(pairs.between.counts == 0))
    ranking, pair = (PreferenceLoss(ObjectiveConfig(name, beta=0.3)) for name in ("dpo_ranked", "sigmoid"))
    tokens = pair.token_logps(policy, batch)
    found, expected = (loss.log_likelihood(tokens, batch) for loss in (ranking, pair))
    assert len(found) and expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected, torch.nn.functional.logsigmoid(pair.margins(tokens, batch).margin))


def test_a_prompt_that_several_rank_is_compared_within_each_row(data_of) -> None:
    words = ["red", "blue", "warm", "cold"]
    rows = [
        {"prompt": "say: a\n", "ranked": words},
        {"prompt": "say: b\n", "ranked": words[::-1]},
        {"prompt": "say: a\n", "ranked": words[::-1]},
        {"prompt": "say: a\n", "candidates": words, "candidate_scores": [0.1, 0.3, None, 0.2]},
    ]
    data, model = data_of(rows), ModelConfig(tiny=TINY)
    read, _ = read_rows(data)
    tokenizer = load_tokenizer(model, read.texts())
    pairs = with_candidates_between(tokenise(read, tokenizer, data)[0], read, "dpo_ranked")
    orders = [["blue", "warm"], ["warm", "blue"], ["warm", "blue"], ["cold"]]
    assert pairs.between.counts.tolist() == [2, 2, 2, 1]
    found = [tokenizer.decode(row, skip_special_tokens=True) for row in pairs.between.completions]
    assert found == [word for order in orders for word in order]


def config_of(data: DataConfig, folder: Path, **parts: object) -> TrainConfig:
    given: dict[str, object] = {
        "model": ModelConfig(tiny=TINY),
        "objective": ObjectiveConfig("spo_ranked"),
        "optim": OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=3, epochs=2, tokens_per_batch=4000),
        "log": LogConfig(every=1),
        "output_dir": str(folder),
        "device": "cpu",
    }
    return TrainConfig(data, **(given | parts))  # type: ignore[arg-type]


def losses_in(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["spo_ranked", "dpo_ranked", "drpo", {"spo_best": 1.0, "sigmoid": 0.5, "ld_dpo": 0.5, "wpo": 1.0}], ids=str
)
def test_a_run_trains_on_them_however_its_steps_are_cut(data_of, tmp_path, name) -> None:
    data = data_of(candidate_rows(), eval_fraction=0.2)
    runs = []
    for budget in (4000, 90):
        optim = OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=3, epochs=2, tokens_per_batch=budget)
        folder = tmp_path / f"run-{budget}"
        train(config_of(data, folder, optim=optim, objective=ObjectiveConfig(name)))
        runs.append(losses_in(folder))
    assert runs[0] == pytest.approx(runs[1], rel=1e-4) and len(runs[0]) == 3


def refused(config: TrainConfig, folder: Path, command: str = "train", *flags: str) -> bool:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    return main([command, "--config", str(recipe), *flags]) == 2


PAIR = {"prompt": "say: red\n", "chosen": "red", "rejected": "blue"}
BESIDE = PAIR | {"candidates": ["red", "blue", "warm"], "candidate_scores": [0.5, 0.1, 0.9]}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([PAIR, PAIR | {"prompt": "say: warm\n"}], "no row of candidates.jsonl has more than two: give rows of"),
        ([BESIDE], "row 1 has a candidate whose score is not between those of chosen and rejected"),
    ],
)
def test_rows_that_have_no_order_are_one_sentence(data_of, tmp_path, capsys, rows, sentence) -> None:
    assert refused(config_of(data_of(rows), tmp_path / "run"), tmp_path)
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_drpo_takes_a_pair_that_scores_would_order_otherwise(data_of, tmp_path) -> None:
    rows = [BESIDE | {"prompt": f"say: {i}\n"} for i in range(4)]
    train(config_of(data_of(rows), tmp_path / "run", objective=ObjectiveConfig("drpo")))
    first = losses_in(tmp_path / "run")[0]
    # At the reference: candidates count alike, and nothing is corrected.
    gaps = [score - other for score in (0.5, 0.9, 0.1) for other in (0.5, 0.1)]
    assert first == pytest.approx(-sum(1 / (1 + math.exp(-gap)) for gap in gaps) / 6, rel=1e-5)


def test_reference_log_probs_of_the_pair_alone_are_not_enough(data_of, tmp_path, capsys) -> None:
    beside = PAIR | {"candidates": ["red", "blue", "warm"], "candidate_scores": [0.9, 0.1, 0.5]}
    rows = [beside | {"ref_chosen_logps": -1.0, "ref_rejected_logps": -1.0}]
    objective = ObjectiveConfig("dpo_ranked")
    assert refused(config_of(data_of(rows), tmp_path / "run", objective=objective), tmp_path)
    said = capsys.readouterr().err
    assert "dpo_ranked needs the reference's log-prob of every candidate" in said and "leave the columns" in said


def test_a_reference_that_moves_is_not_that_of_candidates(data_of, tmp_path, capsys) -> None:
    parts = {"objective": ObjectiveConfig("dpo_ranked"), "reference_sync": ReferenceSyncConfig(steps=2, alpha=1.0)}
    assert refused(config_of(data_of(candidate_rows()), tmp_path / "run", **parts), tmp_path)
    assert "reference_sync is set and the objective dpo_ranked reads the reference of all" in capsys.readouterr().err


def test_an_order_has_no_labels_to_smooth(data_of, tmp_path, capsys) -> None:
    objective = ObjectiveConfig("spo_best", label_smoothing=0.1)
    assert refused(config_of(data_of(candidate_rows()), tmp_path / "run", objective=objective), tmp_path)
    assert "cannot smooth labels (it reads candidates in an order" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_the_pipeline_refuses_them(data_of, tmp_path, capsys) -> None:
    data = data_of(candidate_rows())
    flags = ["--data.path", data.path, "--objective.name", "spo_ranked", "--output_dir", str(tmp_path / "run")]
    assert main(["run", *flags]) == 2
    assert "spo_ranked compares all candidates of a row, and iwpo run weighs pairs" in capsys.readouterr().err
