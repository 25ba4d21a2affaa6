"""Where training starts, and what it is compared with: an adapter of before, or another model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from iwpo_fast.cli import main
from iwpo_fast.config import LoraConfig, ModelConfig, OptimConfig, TinyConfig
from iwpo_fast.training import loop, train

TINY = TinyConfig(vocab_size=320, hidden_size=32, layers=2, heads=2)
FAST = OptimConfig(lr=5e-2, pairs_per_step=8, max_steps=2)


@pytest.fixture
def recipe_of(config, tmp_path) -> Callable[..., list[str]]:
    def make(name: str, **parts: object) -> list[str]:
        path = tmp_path / f"{name}.yaml"
        settings = config(optim=FAST, output_dir=str(tmp_path / name), **parts)
        path.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(settings)))))
        return ["train", "--config", str(path)]

    return make


@pytest.fixture
def base(config, tmp_path) -> str:
    train(config(optim=OptimConfig(pairs_per_step=8, max_steps=1), output_dir=str(tmp_path / "base")))
    return str(tmp_path / "base/model")


@pytest.fixture
def adapter(config, base, tmp_path) -> str:
    model = ModelConfig(path=base, lora=LoraConfig(rank=4))
    train(config(optim=FAST, model=model, output_dir=str(tmp_path / "first")))
    return str(tmp_path / "first")  # the folder of the run, in which the adapter is found


def evaluations(tmp_path: Path, name: str) -> list[dict]:
    lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "eval_loss" in line]


IDS = torch.arange(5, 25)[None]


def test_an_adapter_is_trained_further_and_the_reference_is_what_it_was(
    recipe_of, base, adapter, tmp_path, capsys
) -> None:
    flags = recipe_of("second", model=ModelConfig(path=base))
    assert main([*flags, "--model.adapter", adapter]) == 0
    assert "is trained further; the reference has it" in capsys.readouterr().out
    first, second = evaluations(tmp_path, "second")
    assert first["eval_loss"] == pytest.approx(np.log(2), abs=1e-6)
    # It goes on from where the first run ended, and not from the base.
    assert first["eval_logps/chosen"] == pytest.approx(
        evaluations(tmp_path, "first")[-1]["eval_logps/chosen"], rel=1e-5
    )
    assert second["eval_loss"] < first["eval_loss"]
    before = load_file(tmp_path / "first/model/adapter_model.safetensors")
    after = load_file(tmp_path / "second/model/adapter_model.safetensors")
    assert before.keys() == after.keys() and not all(before[name].equal(after[name]) for name in before)


def test_an_adapter_is_merged_under_a_new_one_and_the_whole_is_saved(recipe_of, base, adapter, tmp_path) -> None:
    model = ModelConfig(path=base, adapter=adapter, lora=LoraConfig(rank=2))
    flags = recipe_of("merged", model=model)
    assert main([*flags, "--optim.lr", "1e-12"]) == 0  # so that what is saved is what it started from
    first, _ = evaluations(tmp_path, "merged")
    assert first["eval_loss"] == pytest.approx(np.log(2), abs=1e-6)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged/model", dtype=torch.float32)
    stacked = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "first/model", dtype=torch.float32)
    with torch.no_grad():
        assert (whole(IDS).logits - stacked(IDS).logits).abs().max() < 1e-5


def test_a_run_from_an_adapter_resumes_bitwise_and_not_with_another_adapter(
    recipe_of, base, adapter, tmp_path, monkeypatch, capsys
) -> None:
    model = ModelConfig(path=base, adapter=adapter)
    assert main(recipe_of("whole", model=model)) == 0
    flags = [*recipe_of("part", model=model), "--checkpoint.every", "1"]
    real, calls = loop.train_step, []

    def broken(*arguments) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("enough")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", broken)
        assert main(flags) == 2
    weights = tmp_path / "first/model/adapter_model.safetensors"
    kept = weights.read_bytes()
    (tmp_path / "first/model/checksums.json").unlink()
    weights.write_bytes(kept[:-4] + bytes(4))
    capsys.readouterr()
    assert main(flags) == 2
    assert "the model has changed since the run" in capsys.readouterr().err
    weights.write_bytes(kept)
    assert main(flags) == 0
    name = "model/adapter_model.safetensors"
    assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_model_is_the_reference_and_its_log_probs_are_kept_under_its_own_name(
    recipe_of, config, base, tmp_path
) -> None:
    train(config(optim=FAST, model=ModelConfig(path=base), output_dir=str(tmp_path / "other")))
    flags = recipe_of("apart", model=ModelConfig(path=base))
    assert main([*flags, "--model.reference", str(tmp_path / "other/model")]) == 0
    # The policy before training is the base, so its rewards are those of the base against the other one.
    first, _ = evaluations(tmp_path, "apart")
    before, after = evaluations(tmp_path, "other")
    expected = 0.1 * (before["eval_logps/chosen"] - after["eval_logps/chosen"])
    assert first["eval_rewards/chosen"] == pytest.approx(expected, rel=1e-4)
    assert abs(expected) > 0.01
    assert set(json.loads((tmp_path / "apart/run.json").read_text())["inputs"]) >= {"model", "reference"}


def test_what_is_saved_names_the_base_that_it_was_trained_on(recipe_of, base, adapter, tmp_path) -> None:
    moved = tmp_path / "moved"
    Path(base).rename(moved)  # so that the adapter names a base that is no longer there
    assert main([*recipe_of("second", model=ModelConfig(path=str(moved))), "--model.adapter", adapter]) == 0
    named = json.loads((tmp_path / "second/model/adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(moved)
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "second/model")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("{", "adapter_config.json of model.adapter"),
        ('{"peft_type": "NEWER"}', "cannot be read (KeyError 'NEWER')"),
        ('{"peft_type": "IA3"}', "is an adapter of the kind IA3: give one of LoRA"),
        ({"bias": "all"}, "was trained with bias all"),
        ({"trainable_token_indices": [1, 2]}, "was trained with trainable_token_indices [1, 2]"),
    ],
    ids=str,
)
def test_settings_of_an_adapter_that_cannot_be_are_one_sentence(
    recipe_of, base, adapter, capsys, settings, sentence
) -> None:
    folder = Path(adapter) / "model"
    (folder / "checksums.json").unlink()
    path = folder / "adapter_config.json"
    text = settings if isinstance(settings, str) else json.dumps(json.loads(path.read_text()) | settings)
    path.write_text(text)
    flags = recipe_of("bad", model=ModelConfig(path=base))
    assert main([*flags, "--model.adapter", adapter]) == 2
    assert sentence in capsys.readouterr().err


def test_an_adapter_is_no_reference_by_itself(recipe_of, base, adapter, capsys) -> None:
    flags = recipe_of("bad", model=ModelConfig(path=base))
    assert main([*flags, "--model.reference", f"{adapter}/model"]) == 2
    said = capsys.readouterr().err
    assert "is an adapter: write it into its base (iwpo merge), and give the result as model.reference." in said


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model.reference", "BASE", "--objective.name", "simpo"], "the objective simpo reads no reference"),
        (["--model.reference", "tiny"], "model.reference is tiny"),
        (["--model.reference", "absent/folder"], "model.reference absent/folder"),
        (["--model.path", "tiny", "--model.reference", "OTHER"], "reads other tokens than model.path"),
        (["--model.adapter", "BASE"], "is no adapter: give the folder of one"),
        (["--model.path", "tiny", "--model.adapter", "BASE"], "the tiny model has new weights"),
        (["--model.adapter", "BASE", "--model.quantize", "nf4", "--model.lora.rank", "2"], "merged without loss"),
    ],
)
def test_what_cannot_be_is_one_sentence(recipe_of, base, tmp_path, capsys, flags, sentence) -> None:
    other = ModelConfig(path="tiny", tiny=dataclasses.replace(TINY, vocab_size=280))
    words = recipe_of("bad", model=ModelConfig(path=base, tiny=other.tiny))
    places = {"BASE": base, "OTHER": base}
    assert main([*words, *(places.get(word, word) for word in flags)]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_model_and_reference_may_be_named_by_the_folder_of_a_run(recipe_of, base, tmp_path) -> None:
    run = str(Path(base).parent)
    for name, place in (("by_run", run), ("by_model", base)):
        flags = recipe_of(name, model=ModelConfig(path=place))
        assert main([*flags, "--model.reference", place]) == 0
    assert evaluations(tmp_path, "by_run")[-1]["eval_loss"] == evaluations(tmp_path, "by_model")[-1]["eval_loss"]


@pytest.mark.slow
def test_an_unfinished_run_is_no_reference(recipe_of, base, tmp_path, capsys) -> None:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/run.json").write_text("{}")
    flags = recipe_of("bad", model=ModelConfig(path=base))
    assert main([*flags, "--model.reference", str(tmp_path / "unfinished")]) == 2
    assert "is a run without a model yet: let it finish" in capsys.readouterr().err
