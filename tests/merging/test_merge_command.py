from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from trained_models import save_adapter, save_base
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.config import LoraConfig, ModelConfig
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.saved_files import is_whole
from iwpo_fast.world import World

IDS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base.parent / "adapter", base)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


def adapted(base: Path, adapter: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), adapter))


@pytest.mark.slow
def test_plain_transformers_reads_the_merged_model_which_says_what_the_adapter_said(base, adapter, tmp_path) -> None:
    assert main(["merge", "--model", str(adapter), "--output", str(tmp_path / "out")]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(merged), adapted(base, adapter), rtol=1e-4, atol=1e-4)
    assert (logits(merged) - logits(LlamaForCausalLM.from_pretrained(base))).abs().max() > 1
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("quick") == AutoTokenizer.from_pretrained(base)("quick")
    assert is_whole(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "stored"), [("float16", "float16"), ("bfloat16", "bfloat16"), ("base", "float32")])
def test_weights_are_written_in_the_type_asked_for(asked, stored, base, adapter, tmp_path, capsys) -> None:
    assert main(["merge", "--model", str(adapter), "--output", str(tmp_path / "out"), "--dtype", asked]) == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{stored}"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == stored
    said = capsys.readouterr().out
    written = logps(LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32))
    error = (written - logps(PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), adapter))).abs().max()
    assert f"differ from those of base and adapter by at most {error:.1g} nats" in said
    assert error < 1e-3 if stored == "float32" else error > 1e-3


def logps(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.linspace(0, model.config.vocab_size - 1, 64).long()
    with torch.no_grad():
        logits = model.eval()(input_ids=ids[None]).logits[0, :-1]
    found: torch.Tensor = logits.log_softmax(-1)[torch.arange(63), ids[1:]]
    return found


def test_the_merged_model_stops_where_the_chat_template_ends_an_answer(base, adapter, tmp_path) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    own = tokenizer.eos_token_id
    tokenizer.add_special_tokens({"additional_special_tokens": ["!"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}!{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "adapter")
    end = tokenizer.convert_tokens_to_ids("!")
    assert end < len(AutoTokenizer.from_pretrained(base)), "a token that the model embeds"
    assert main(["merge", "--model", str(tmp_path / "adapter"), "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [own, end]


@pytest.mark.slow
def test_a_tokenizer_with_more_tokens_than_the_base_is_refused(base, adapter, tmp_path, capsys) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert main(["merge", "--model", str(tmp_path / "adapter"), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("iwpo: error: ") and said.count("\n") == 1 and "but the model embeds" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_is_merged_by_its_folder(adapter, tmp_path) -> None:
    shutil.copytree(adapter, tmp_path / "run" / "train" / "model")
    assert main(["merge", "--model", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    assert is_whole(tmp_path / "out")


@pytest.mark.slow
def test_an_adapter_on_a_base_in_four_bits_is_merged_into_the_original(base, tmp_path, capsys) -> None:
    pytest.importorskip("bitsandbytes")
    config = ModelConfig(path=str(base), lora=LoraConfig(rank=2), quantize="nf4")
    tokenizer = load_tokenizer(config, ())
    policy = load_policy(config, tokenizer, World(0, 1, torch.device("cpu")), seed=0, max_length=20)
    for name, parameter in policy.trainable_parameters().items():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    policy.save(tmp_path / "run" / "model", tokenizer)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"settings": {"model.quantize": "nf4"}}))
    assert main(["merge", "--model", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    assert "trained on this base in 4 bits" in capsys.readouterr().out
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    change = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    first, second = (change[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
    update = config.lora.alpha / 2 * second @ first
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + update)
    assert update.abs().max() > 0.01
    assert after.keys() == before.keys()


@pytest.mark.slow
def test_a_weight_that_the_type_cannot_hold_leaves_nothing_behind(base, adapter, tmp_path, capsys) -> None:
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] *= 1e6
    save_file(weights, path, {"format": "pt"})
    flags = ["--model", str(adapter), "--base", str(tmp_path / "base"), "--output", str(tmp_path / "out")]
    assert main(["merge", *flags, "--dtype", "float16"]) == 2
    assert "cannot hold: set dtype to float32." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"hidden_size": 32}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
def test_a_base_that_does_not_fit_is_refused(changes, adapter, tmp_path, capsys) -> None:
    other = save_base(tmp_path / "other", **changes)
    flags = ["--model", str(adapter), "--output", str(tmp_path / "out"), "--base", str(other)]
    code = main(["merge", *flags])
    said = capsys.readouterr().err
    if changes == {"num_hidden_layers": 3}:  # the adapter names its layers, and a base may have more
        assert (code, said) == (0, "")
        return
    assert code == 2 and said.count("\n") == 1
    assert f"the adapter {adapter} does not fit its base {other} (" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "{base}", "--output", "out"], "is no adapter, so there is nothing to merge"),
        (["--model", "absent", "--output", "out"], "model absent is neither a folder with a tokenizer nor the id"),
        (["--model", "{adapter}", "--output", "{base}"], "exists, and what is in it would be lost: choose another"),
        (["--model", "{adapter}", "--output", "out", "--base", "{adapter}"], "is an adapter itself: merge it first"),
        (["--model", "{adapter}", "--output", "out", "--base", "absent"], "base absent is neither a folder with a"),
        (["--model", "tiny", "--output", "out"], "model is tiny, which has random weights"),
        (["--model", "{run}", "--output", "out"], "is a run without a model yet: let it finish"),
        (["--model", "{adapter}"], "output is missing: give --output"),
        (["--model", "{adapter}", "--output", "out", "--dtype", "int4"], "dtype is int4: it must be one of base, "),
    ],
)
def test_a_mistake_is_one_sentence(flags, sentence, base, adapter, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert main(["merge", *(flag.format(base=base, adapter=adapter, run=tmp_path / "run") for flag in flags)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("iwpo: error: ") and said.count("\n") == 1
    assert not Path("out").exists()
