"""What is said of the end of answers, and where the saved model stops; from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from iwpo_fast.cli import main

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "more"}]
ROW: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "count"}],
    "chosen": [*TURNS, {"role": "assistant", "content": "two"}],
    "rejected": [{"role": "assistant", "content": "no"}],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A base model that stops at <|endoftext|>, with a chat template that ends turns with <|im_end|>."""
    core = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(ALPHABET)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=SPECIAL[0], pad_token=SPECIAL[0])
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **size)
    folder = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(tmp_path: Path, model: Path, row: dict[str, Any], *flags: str) -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 2, encoding="utf-8")
    places = ["--data.path", tmp_path / "pairs.jsonl", "--data.cache_dir", tmp_path / "cache", "--model.path", model]
    fixed = ["--data.eval_fraction", "0", "--output_dir", tmp_path / "run", "--optim.max_steps", "1", "--device", "cpu"]
    assert main(["train", *map(str, [*places, *fixed]), *flags]) == 0
    return tmp_path / "run"


def stops_of(run: Path) -> list[int]:
    stops = json.loads((run / "model" / "generation_config.json").read_text())["eos_token_id"]
    return stops if isinstance(stops, list) else [stops]


@pytest.mark.slow
def test_a_base_model_stops_at_the_end_that_its_answers_were_given_and_only_the_assistants_tokens_are_summed(
    tmp_path, model, capsys
) -> None:
    run = trained(tmp_path, model, ROW)
    said = "answers end with <|im_end|>, at which the model's generation does not stop; the saved"
    assert said in capsys.readouterr().out
    end = len(ALPHABET) + SPECIAL.index("<|im_end|>")
    assert stops_of(run) == [len(ALPHABET), end]
    assert json.loads((run / "ledger.json").read_text())["with_context"] == 2
    everything = trained(tmp_path / "all", model, ROW, "--data.train_on", "all")
    of_turns, of_all = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (run, everything)
    )
    # Log-probs of random weights are near -log(vocabulary): the tokens of the user's turn and its marks are not summed.
    tokens = len("one\ntwo\n") + 2
    others = len("<user\nmore<\n<assistant\n") - 3 + 3
    ratio = of_all["logps/chosen"] / of_turns["logps/chosen"]
    assert ratio == pytest.approx((tokens + others) / tokens, rel=0.1)
    assert of_all["logps/rejected"] == of_turns["logps/rejected"]
    assert of_turns["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_an_adapter_says_that_it_does_not_keep_where_to_stop(tmp_path, model, capsys) -> None:
    trained(tmp_path, model, ROW, "--model.lora.rank", "2", "--dry_run", "true")
    assert "<|im_end|>, at which the model's generation does not stop; an adapter cannot" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "\n", "<|im_start|>user"])
def test_answers_that_never_end_are_named_in_one_line(end, tmp_path, model, capsys) -> None:
    (tmp_path / "t.jinja").write_text(CHATML.replace("<|im_end|>\n", end), encoding="utf-8")
    trained(tmp_path, model, ROW, "--data.chat_template", str(tmp_path / "t.jinja"), "--dry_run", "true")
    assert "no completion ends with a token that stops generation" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("add_eos", ["true", "false"])
def test_plain_text_ends_where_the_model_stops_unless_it_is_told_not_to(add_eos, tmp_path, model, capsys) -> None:
    row = {"prompt": "count", "chosen": " one", "rejected": " no"}
    trained(tmp_path, model, row, "--data.add_eos", add_eos, "--dry_run", "true")
    out = capsys.readouterr().out
    assert ("no completion ends" in out) == (add_eos == "false") and "does not stop" not in out
