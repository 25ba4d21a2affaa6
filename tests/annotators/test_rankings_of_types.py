"""Annotators who rank three answers: types are told by the likelihood of the whole order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from annotator_votes import write_rankings, write_votes
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from iwpo_fast.config import ObjectiveConfig, OptimConfig, TrainConfig, TypesConfig
from iwpo_fast.data import read_rows
from iwpo_fast.files import load_record, load_tensors
from iwpo_fast.models import load_tokenizer
from iwpo_fast.models.tiny import tiny_model
from iwpo_fast.training import train

RANKED = ObjectiveConfig("dpo_ranked", beta=1.0)


@pytest.fixture
def ranking(config, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Settings of a training on rankings; keywords as of `config`."""
    path = write_rankings(tmp_path / "rankings.jsonl")

    def make(**parts: object) -> TrainConfig:
        settings = config(**({"objective": RANKED} | parts))
        return replace(settings, data=replace(settings.data, path=str(path)))

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def naive(rewards: list[float]) -> float:
    """The log-likelihood of one order: each answer in turn is chosen among those that are left."""
    return sum(math.log(math.exp(r) / sum(math.exp(other) for other in rewards[k:])) for k, r in enumerate(rewards))


def implicit_rewards(policy, base, tokenizer, prompt: str, answers: list[str]) -> list[float]:
    """log π - log π_ref of each answer by plain transformers, one text at a time; β is 1."""

    def logp(model, answer: str) -> float:
        ids = tokenizer(prompt + answer + tokenizer.eos_token, return_tensors="pt").input_ids
        begin = tokenizer(prompt, return_tensors="pt").input_ids.shape[1]
        with torch.no_grad():
            logps = model(ids).logits[0, :-1].double().log_softmax(-1)
        return float(logps.gather(1, ids[0, 1:, None])[begin - 1 :].sum())

    return [logp(policy, answer) - logp(base, answer) for answer in answers]


@pytest.mark.slow
def test_rankings_are_told_as_plain_transformers_would(ranking, tmp_path) -> None:
    settings = ranking(types=TypesConfig(rounds=1, mixture_prompts=0, votes="trained"))
    settings = replace(settings, data=replace(settings.data, eval_fraction=0.0))
    train(settings)
    rows, _ = read_rows(settings.data)
    base = tiny_model(settings.model.tiny, load_tokenizer(settings.model, rows.texts()), settings.seed)
    given = [json.loads(line) for line in Path(settings.data.path).read_text().splitlines()]
    expected = np.zeros((6, 2))
    for number in range(2):
        folder = tmp_path / "run" / "round-1" / "model" / f"type-{number}"
        policy, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        for row in given:
            found = naive(implicit_rewards(policy, base, tokenizer, row["prompt"], row["ranked"]))
            expected[int(row["annotator"].removeprefix("ann")), number] += found
    kept = load_tensors(tmp_path / "run" / "round-1" / "votes.safetensors")
    assert np.allclose(kept["log_likelihood"], expected, atol=1e-3)
    assert not np.allclose(expected[:, 0], expected[:, 1], atol=1e-2)
    assert kept["votes"].tolist() == [6] * 6


@pytest.mark.slow
def test_one_type_of_rankings_is_a_training_on_all_bitwise(ranking, tmp_path) -> None:
    train(ranking(types=TypesConfig(count=1)))
    train(ranking(types=None, output_dir=str(tmp_path / "plain")))
    one = weights(tmp_path / "run" / "round-1" / "model" / "type-0")
    plain = weights(tmp_path / "plain" / "model")
    assert one.keys() == plain.keys() and all(one[name].equal(plain[name]) for name in one)
    found = load_record(tmp_path / "run" / "annotators.json")
    assert all(shares == [1.0] for shares in found["annotators"].values())


@pytest.mark.slow
def test_names_of_types_mean_nothing_to_rankings(ranking, tmp_path) -> None:
    for name, shares in {"one": [0, 1, 1], "other": [1, 0, 0]}.items():
        start = tmp_path / f"{name}.json"
        start.write_text(json.dumps({f"ann{who}": shares[who % 3] for who in range(6)}))
        types = TypesConfig(rounds=2, mixture_prompts=0, start=str(start))
        train(ranking(types=types, output_dir=str(tmp_path / name)))
    one, other = (load_record(tmp_path / name / "annotators.json")["annotators"] for name in ("one", "other"))
    assert all(np.allclose(shares, other[who][::-1], atol=1e-6) for who, shares in one.items())
    assert any(abs(shares[0] - shares[1]) > 0.1 for shares in one.values())


@pytest.mark.slow
def test_who_ranks_the_other_way_round_is_told_apart(ranking, tmp_path) -> None:
    write_rankings(tmp_path / "rankings.jsonl", each=12)
    optim = OptimConfig(lr=1e-2, pairs_per_step=8, epochs=8)
    train(ranking(types=TypesConfig(rounds=3, mixture_prompts=0), optim=optim))
    shares = load_record(tmp_path / "run" / "annotators.json")["annotators"]
    kinds = {who: int(np.argmax(of)) for who, of in shares.items()}
    assert kinds["ann0"] != kinds["ann1"]
    assert all(kinds[f"ann{who}"] == kinds["ann0" if who % 3 == 0 else "ann1"] for who in range(6))


def refused(settings: TrainConfig) -> str:
    with pytest.raises(ValueError) as error:
        train(settings)
    return str(error.value)


def test_answers_of_one_score_are_no_order(ranking) -> None:
    settings = ranking()
    path = Path(settings.data.path)
    rows = list(map(json.loads, path.read_text().splitlines()))
    for row in rows:
        row["candidates"], row["candidate_scores"] = row.pop("ranked"), [3, 2, 1]
    rows[4]["candidate_scores"] = [2, 2, 1]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    types = TypesConfig(votes="trained", mixture_prompts=0)
    said = refused(replace(settings, data=replace(settings.data, eval_fraction=0.0), types=types))
    assert said.startswith("In rankings.jsonl, row 5 has two completions of one score, and types with dpo_ranked")


def test_pairs_alone_are_no_rankings(config, tmp_path) -> None:
    settings = config(objective=RANKED)
    path = write_votes(tmp_path / "pairs.jsonl")
    said = refused(replace(settings, data=replace(settings.data, path=str(path))))
    assert "dpo_ranked compares all scored candidates of a row" in said and said.endswith("or choose sigmoid.")
