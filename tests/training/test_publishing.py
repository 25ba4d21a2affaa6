"""Every saved model has a card, and goes to the hub where that is asked for; a stand-in for the hub records calls."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from toy_pairs import write_pairs

from iwpo_fast.cli import main
from iwpo_fast.config import CheckpointConfig, LogConfig, LoraConfig, MixedConfig, ModelConfig, OptimConfig
from iwpo_fast.models.saved_files import check_saved
from iwpo_fast.training import train
from iwpo_fast.training.model_card import _named


class Hub:
    """What the library calls of `HfApi`; keeps the calls, and fails where `fails` says so."""

    calls: list[tuple[str, dict]]
    fails = False

    def create_repo(self, name: str, **options) -> object:
        Hub.calls.append((name, options))
        if Hub.fails:
            raise ConnectionError("no route")
        return SimpleNamespace(repo_id=f"me/{name}", __str__=lambda _: "")

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        Hub.calls.append((repo_id, {"files": {path.name for path in Path(folder_path).iterdir()}}))


@pytest.fixture
def hub(monkeypatch) -> type[Hub]:
    Hub.calls, Hub.fails = [], False
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    return Hub


@pytest.fixture
def recipe(config, tmp_path) -> str:
    path = tmp_path / "recipe.yaml"
    settings = config(optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=2))
    path.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(settings)))))
    return str(path)


def card_of(folder: Path) -> tuple[dict, str]:
    _, about, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(about), text


def test_nothing_is_sent_unless_asked_and_a_finished_run_sends_its_model_later(recipe, tmp_path, hub, capsys) -> None:
    flags = ["train", "--config", recipe]
    assert main(flags) == 0
    assert hub.calls == []
    hub.fails = True
    assert main([*flags, "--push_to_hub", "mine"]) == 2
    assert "has not arrived at mine (no route): run the same command again" in capsys.readouterr().err
    hub.fails, hub.calls = False, []
    assert main([*flags, "--push_to_hub", "mine"]) == 0
    (made, how), (to, sent) = hub.calls
    assert (made, how, to) == ("mine", {"private": True, "exist_ok": True}, "me/mine")
    assert sent["files"] == {path.name for path in (tmp_path / "run/model").iterdir()} >= {"README.md", "config.json"}


@pytest.mark.parametrize(
    ("name", "function", "value", "sentence"),
    [
        ("me/my model", "get_token", "a token", "is no name of a repository"),
        ("mine", "get_token", None, "nobody is logged in here"),
        ("mine", "is_offline_mode", True, "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_could_not_arrive_is_said_before_training(
    recipe, tmp_path, hub, monkeypatch, capsys, name, function, value, sentence
) -> None:
    monkeypatch.setattr(huggingface_hub, function, lambda: value)
    assert main(["train", "--config", recipe, "--push_to_hub", name]) == 2
    assert sentence in capsys.readouterr().err
    assert hub.calls == [] and not (tmp_path / "run").exists()


def test_the_card_says_what_was_trained_on_what_and_how_and_no_path(config, tmp_path) -> None:
    weights = [0.5, 1.5] * 20
    data = write_pairs(tmp_path / "weighted.jsonl", rows=40, weight=weights)
    settings = config(optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=2))
    settings.data.path = str(data)
    summary = train(settings)
    about, text = card_of(tmp_path / "run/model")
    assert about["library_name"] == "transformers"
    assert "dpo" in about["tags"]
    assert f"| after | {summary.after['eval_loss']:.4f} |" in text
    assert "of weighted.jsonl" in text
    assert "0.5 to 1.5, effective size" in text
    assert "optim.lr: 0.001" in text
    assert str(tmp_path) not in (tmp_path / "run/model/README.md").read_text()
    (tmp_path / "run/model/README.md").write_text("mine")  # a card may be written anew
    check_saved(tmp_path / "run/model", "model", weights=True)


def test_the_card_of_an_adapter_takes_the_place_of_pefts(config, tmp_path) -> None:
    train(config(optim=OptimConfig(pairs_per_step=8, max_steps=1)))
    adapted = config(
        model=ModelConfig(path=str(tmp_path / "run/model"), lora=LoraConfig(rank=2)),
        optim=OptimConfig(pairs_per_step=8, max_steps=1),
        output_dir=str(tmp_path / "adapter"),
    )
    train(adapted)
    about, text = card_of(tmp_path / "adapter/model")
    assert about["library_name"] == "peft"
    assert "An adapter for `model`" in text and "AutoPeftModelForCausalLM" in text
    assert "model.lora.rank: 2" in text


def test_the_card_says_which_step_is_saved_and_names_all_data(config, tmp_path) -> None:
    settings = config(
        optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=3),
        log=LogConfig(eval_every=1),
        checkpoint=CheckpointConfig(best="eval_rewards/margins"),
    )
    more = write_pairs(tmp_path / "more.jsonl", rows=8, seed=1)
    settings.data.mix = [MixedConfig(path=str(more))]
    summary = train(settings)
    _, text = card_of(tmp_path / "run/model")
    assert f"| model | that of step {summary.after['step']}, the best by eval_rewards/margins |" in text
    assert "by preference pairs of `pairs.jsonl and more.jsonl`" in text


def test_data_of_the_hub_keep_their_owner() -> None:
    assert _named("them/their-pairs") == "them/their-pairs"
    assert _named("/data/a.jsonl and them/their-pairs") == "a.jsonl and them/their-pairs"
