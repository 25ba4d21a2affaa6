"""The memory that a plan forecasts for a training, beside the peak of the process that trains.

python -m benchmarks.forecast --out benchmarks/results/forecast-NAME.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.environment import describe
from benchmarks.memory import PeakMemory
from iwpo_fast.config import CheckpointConfig, DataConfig, LoraConfig, ModelConfig, OptimConfig, TrainConfig
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.training import train

MIB = 1 << 20
PAIRS, WORDS = 4, 60

SHAPES: dict[str, dict[str, int]] = {
    "SmolLM2-135M": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    | {"num_attention_heads": 9, "num_key_value_heads": 3},
    "small": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8}
    | {"num_attention_heads": 4, "num_key_value_heads": 2},
    "tiny": {"vocab_size": 512, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    | {"num_attention_heads": 2, "num_key_value_heads": 2},
}
"""Of Llamas with tied embeddings; `tiny` is trained before, so that a process has what it needs once."""

CASES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "all weights, selective": {"gradient_checkpointing": "selective"},
    "all weights, full": {"gradient_checkpointing": "full"},
    "all weights, padded": {"batch_layout": "padded"},
    "LoRA": {"lora": LoraConfig(rank=16)},
    "LoRA, full": {"lora": LoraConfig(rank=16), "gradient_checkpointing": "full"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="SmolLM2-135M")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[16384, 2048], help="of a micro-batch at most")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit")
    parser.add_argument("--alone", action="store_true", help="measure one case in this process")
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(forecast_and_peak(given.shape, given.cases[0], given.tokens[0])))
        return
    rows = []
    for case in given.cases:
        for tokens in given.tokens:
            rows.append(in_a_process(given.shape, case, tokens))
            print(line(rows[-1]), flush=True)
            if given.out:  # anew after every row, so that a run that is ended leaves what it has
                about = {"measured": describe(torch.device("cpu"), given.commit), "shape": SHAPES[given.shape]}
                given.out.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


def in_a_process(shape: str, case: str, tokens: int) -> dict[str, Any]:
    """What `forecast_and_peak` gives, from a process of its own, because its peak is one for the whole process."""
    command = [sys.executable, "-m", "benchmarks.forecast", "--alone", "--shape", shape]
    done = subprocess.run(
        [*command, "--cases", case, "--tokens", str(tokens)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def forecast_and_peak(shape: str, case: str, tokens: int) -> dict[str, Any]:
    """Three steps of a training: what its plan says, and bytes at its peak above those before it.

    Args:
        tokens: `optim.tokens_per_batch`.
    """
    with TemporaryDirectory() as folder:
        place = Path(folder)
        write_pairs(place / "pairs.jsonl")
        for name in ("tiny", shape):
            save_model(place / name, SHAPES[name], place / "pairs.jsonl")
        said_by_training(place, "tiny", CASES[case], 4096)
        memory = PeakMemory(torch.device("cpu"))
        said = said_by_training(place, shape, CASES[case], tokens)
        peak = memory.extra()
    total, parts = re.findall(r"about (.*) of memory: (.*)", said)[0]
    forecast = {name: in_bytes(size) for name, size in re.findall(r"(\D+?) ([\d.]+ [GM]iB)(?:, |$)", parts)}
    return {"case": case, "tokens": tokens, "forecast": in_bytes(total), "parts": forecast, "peak": peak}


def said_by_training(place: Path, model: str, settings: dict[str, Any], tokens: int) -> str:
    config = TrainConfig(
        data=DataConfig(str(place / "pairs.jsonl"), max_length=1024),
        model=ModelConfig(str(place / model), **settings),
        optim=OptimConfig(pairs_per_step=PAIRS, max_steps=2, epochs=2, tokens_per_batch=tokens),
        checkpoint=CheckpointConfig(every=None),
        device="cpu",
        output_dir=str(place / "runs" / model),
    )
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        train(config)
    return said.getvalue()


def write_pairs(path: Path) -> None:
    draw = random.Random(0)
    words = [f"{draw.choice('bcdfghkl')}{draw.choice('aeiou')}{n}" for n in range(60)]
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(PAIRS):
            texts = (" ".join(draw.choices(words, k=count)) for count in (WORDS // 3, WORDS, WORDS))
            file.write(json.dumps(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True))) + "\n")


def save_model(folder: Path, shape: dict[str, int], pairs: Path) -> None:
    """Random weights, and a tokenizer of fewer tokens than the model has."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([pairs.read_text(encoding="utf-8")], 400)
    settings = LlamaConfig(**shape, tie_word_embeddings=True, max_position_embeddings=2048)
    LlamaForCausalLM(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def in_bytes(size: str) -> int:
    number, unit = size.split()
    return int(float(number) * {"MiB": MIB, "GiB": 1024 * MIB}[unit])


def line(row: dict[str, Any]) -> str:
    off = row["forecast"] / row["peak"] - 1
    return (
        f"{row['case']:<24} {row['tokens']:>6} tokens: forecast {row['forecast'] / MIB:6.0f} MiB, "
        f"peak {row['peak'] / MIB:6.0f} MiB ({off:+.0%})"
    )


if __name__ == "__main__":
    main()
