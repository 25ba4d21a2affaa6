"""The model and tokenizer of a GGUF file as a plain folder: `python tools/plain_folder.py model.gguf folder`.

The weights are dequantised to float32. Needs the package `gguf`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def convert(gguf: Path, folder: Path) -> None:
    """Write what `from_pretrained(folder)` reads without the GGUF file."""
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer = None  # it is quantised no more, and would refuse to be saved
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tools/plain_folder.py model.gguf folder")
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
