"""Answers to held-out prompts at every evaluation are those of the saved model by plain transformers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from iwpo_fast.cli import main
from iwpo_fast.models import Policy
from iwpo_fast.training.samples import with_room


def recipe_of(config, tmp_path) -> str:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    return str(recipe)


def test_samples_are_the_most_probable_answers_and_change_nothing_that_is_trained(config, tmp_path, capsys) -> None:
    settings = config()
    flags = ["train", "--config", recipe_of(settings, tmp_path), "--optim.max_steps", "2", "--log.eval_every", "1"]
    assert main(flags) == 0
    capsys.readouterr()
    flags += ["--output_dir", str(tmp_path / "sampled"), "--log.samples", "3", "--log.sample_tokens", "5"]
    assert main(flags) == 0
    assert "step 00002 sample | say: " in capsys.readouterr().out
    plain, sampled = (
        load_file(place / "model/model.safetensors") for place in (tmp_path / "run", tmp_path / "sampled")
    )
    assert all(plain[name].equal(sampled[name]) for name in plain)

    files = sorted((tmp_path / "sampled/samples").iterdir())
    assert [path.name for path in files] == [f"step-{step:08d}.jsonl" for step in (0, 1, 2)]
    rows = [json.loads(line) for line in files[-1].read_text().splitlines()]
    assert len({row["prompt"] for row in rows}) == len(rows) == 3
    assert [row["answer"] for row in rows] == [greedy(tmp_path / "sampled/model", row["prompt"]) for row in rows]


def test_an_answer_stays_within_the_longest_sequence(config, tmp_path, monkeypatch) -> None:
    prompts = [np.arange(n) for n in (9, 4, 6)]
    assert [len(prompt) for prompt in with_room(prompts, 4, 10)] == [4, 6]
    assert [len(prompt) for prompt in with_room(prompts, 99, 10)] == [9, 4, 6]
    real, widths = Policy.generate, []

    def noted(policy: Policy, **inputs: object) -> torch.Tensor:
        drawn = real(policy, **inputs)
        widths.append(drawn.shape[1])
        return drawn

    monkeypatch.setattr(Policy, "generate", noted)
    flags = ["train", "--config", recipe_of(config(), tmp_path), "--optim.max_steps", "1", "--data.max_length", "64"]
    assert main([*flags, "--log.samples", "3", "--log.sample_tokens", "100"]) == 0  # for which no prompt leaves room
    assert len(widths) == 2 and max(widths) <= 64


def greedy(folder: Path, prompt: str) -> str:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
    drawn = model.generate(**ids, do_sample=False, max_new_tokens=5)
    return tokenizer.decode(drawn[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--log.sample_tokens", "9"], "log.sample_tokens is 9 and log.samples is 0"),
        (["--log.samples", "2", "--data.eval_fraction", "0"], "log.samples is 2, but nothing is held out"),
    ],
)
def test_samples_of_nothing_are_one_sentence(config, tmp_path, capsys, flags, sentence) -> None:
    assert main(["train", "--config", recipe_of(config(), tmp_path), *flags]) == 2
    assert sentence in capsys.readouterr().err
