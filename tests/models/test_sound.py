"""What a model's files say that it cannot be: weights that are no numbers, ids that the embedding does not have."""

from __future__ import annotations

import json

import pytest
import torch
from families import save_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from iwpo_fast.config import ModelConfig
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.world import World

CPU = World(0, 1, torch.device("cpu"))


def load(folder, tokenizer) -> object:
    return load_policy(ModelConfig(path=str(folder)), tokenizer, CPU, seed=0, max_length=20)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"]
)
def test_a_weight_that_is_not_finite_is_named(tmp_path, tokenizer, name, value) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[3] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"holds weights that are not finite, in {name}: it was damaged"):
        load(folder, tokenizer)


def test_several_are_counted(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"not finite, in model\.\S+ and {len(weights) - 1} more"):
        load(folder, tokenizer)


@pytest.mark.parametrize("token", ["middle", "last", "added"])
def test_an_id_beyond_the_embedding_is_named(tmp_path, tokenizer, token) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer, vocab_size=len(tokenizer) + 5)
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text())
    if token == "added":
        settings["added_tokens"][-1] |= {"id": len(tokenizer) + 50}
        settings["model"]["vocab"][settings["added_tokens"][-1]["content"]] = len(tokenizer) + 50
    else:
        words = sorted(settings["model"]["vocab"], key=settings["model"]["vocab"].get)
        settings["model"]["vocab"][words[-1 if token == "last" else len(words) // 2]] = len(tokenizer) + 50
    path.write_text(json.dumps(settings))
    beyond = len(tokenizer) + 50
    with pytest.raises(ValueError, match=rf"the id {beyond} but the model embeds {beyond - 45} tokens"):
        load(folder, load_tokenizer(ModelConfig(path=str(folder)), ()))


def test_a_full_embedding_is_enough(tmp_path, tokenizer) -> None:
    folder = save_model(tmp_path / "m", "llama", tokenizer, vocab_size=len(tokenizer) + 1)
    given = load_tokenizer(ModelConfig(path=str(folder)), ())
    given.add_tokens([AddedToken("<one more>")])
    load(folder, given)
