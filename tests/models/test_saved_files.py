"""A model that was saved here is as it was when it is read, or is refused with the name of the file that is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from iwpo_fast.config import LoraConfig, ModelConfig, TinyConfig
from iwpo_fast.files import load_record
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.saved_files import is_whole
from iwpo_fast.world import World

ALONE = World(0, 1, torch.device("cpu"))
TINY = TinyConfig(vocab_size=300, hidden_size=32, layers=1, heads=2)


@pytest.fixture
def saved(tmp_path, tokenizer) -> Path:
    load_policy(ModelConfig(tiny=TINY), tokenizer, ALONE, seed=0).save(tmp_path / "model", tokenizer)
    return tmp_path / "model"


def load(folder: Path) -> None:
    config = ModelConfig(path=str(folder))
    load_policy(config, load_tokenizer(config, ()), ALONE, seed=0)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[int(0.62 * len(content))] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_every_file_of_a_saved_model_has_a_hash(saved) -> None:
    names = {path.name for path in saved.iterdir()} - {"checksums.json"}
    assert load_record(saved / "checksums.json")["files"].keys() == names >= {"model.safetensors", "tokenizer.json"}
    load(saved)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_flipped_bit_is_named_and_a_change_by_hand_is_allowed_without_the_hashes(saved, name) -> None:
    flip(saved / name)
    assert not is_whole(saved)
    with pytest.raises(ValueError, match=rf"model\.path .*model is not as it was saved, {name} is damaged or gone"):
        load(saved)
    flip(saved / name)
    with open(saved / name, "a") as file:
        file.write("" if name == "model.safetensors" else "\n")
    (saved / "checksums.json").unlink()
    load(saved)


def test_a_damaged_list_of_hashes_is_named(saved) -> None:
    flip(saved / "checksums.json")
    assert not is_whole(saved)
    with pytest.raises(ValueError, match=r"checksums\.json is damaged"):
        load(saved)


@pytest.mark.slow
def test_an_adapter_has_hashes_too(saved, tmp_path, tokenizer) -> None:
    config = ModelConfig(path=str(saved), lora=LoraConfig(rank=2))
    load_policy(config, tokenizer, ALONE, seed=0).save(tmp_path / "adapter", tokenizer)
    assert is_whole(tmp_path / "adapter")
    flip(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not is_whole(tmp_path / "adapter")


def test_a_folder_of_something_else_holds_no_whole_model(tmp_path) -> None:
    assert not is_whole(tmp_path) and not is_whole(tmp_path / "absent")
