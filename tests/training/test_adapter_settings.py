"""Kinds of adapters and noise on embeddings from the command line: what is saved, and that a run goes on bitwise."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml
from safetensors.torch import load_file

from iwpo_fast.cli import main
from iwpo_fast.config import OptimConfig
from iwpo_fast.training import loop, train

FLAGS = ["--model.lora.rank", "2", "--model.lora.dora", "--model.lora.rslora", "--model.lora.modules_to_save"]
FLAGS += ["[lm_head]", "--model.neftune_alpha", "5", "--checkpoint.every", "1", "--optim.max_steps", "3"]


@pytest.mark.filterwarnings("ignore:.*tie")
def test_an_adapter_of_every_kind_trains_under_noise_and_goes_on_bitwise(config, tmp_path, monkeypatch, capsys) -> None:
    train(config(optim=OptimConfig(pairs_per_step=8, max_steps=1), output_dir=str(tmp_path / "base")))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config())))))
    flags = ["train", "--config", str(recipe), "--model.path", str(tmp_path / "base/model"), *FLAGS, "--output_dir"]
    assert main([*flags, str(tmp_path / "whole")]) == 0
    assert "the noise on embeddings is of each sequence alone" in capsys.readouterr().out
    real, calls = loop.train_step, []

    def broken(*arguments) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("enough")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", broken)
        assert main([*flags, str(tmp_path / "part")]) == 2
    assert main([*flags, str(tmp_path / "part")]) == 0
    name = "model/adapter_model.safetensors"
    assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    saved = load_file(tmp_path / "whole" / name)
    assert any("lora_magnitude_vector" in key for key in saved) and any("lm_head.weight" in key for key in saved)
    settings = json.loads((tmp_path / "whole/model/adapter_config.json").read_text())
    assert settings["use_dora"] and settings["use_rslora"] and settings["modules_to_save"] == ["lm_head"]

    def losses(run: str) -> list[float]:
        lines = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    assert losses("part") == losses("whole")
    assert main([*flags, str(tmp_path / "quiet"), "--model.neftune_alpha", "null"]) == 0
    assert losses("quiet") != losses("whole")
