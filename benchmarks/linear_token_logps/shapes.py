"""The heads of public models, and the sizes at which they are measured."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.suite import Shape

TINY = Shape("tiny", sequences=4, tokens=24, hidden=32, vocab=500, supervised=0.5, dtype=torch.float32)
CPU = Shape("cpu", sequences=8, tokens=512, hidden=512, vocab=32000, supervised=0.5, dtype=torch.float32)

HEADS = (
    Shape("qwen3-8b", sequences=16, tokens=512, hidden=4096, vocab=151936),
    Shape("llama3-8b", sequences=16, tokens=512, hidden=4096, vocab=128256),
    Shape("gemma2-2b", sequences=16, tokens=512, hidden=2304, vocab=256000, softcap=30.0),
    Shape("qwen2-1.5b", sequences=16, tokens=512, hidden=1536, vocab=151936),
    Shape("qwen2-7b", sequences=16, tokens=512, hidden=3584, vocab=152064),
)


def shapes(device_type: str) -> list[Shape]:
    """Most important first; heads at a GPU once with half of the tokens supervised and once with all."""
    if device_type == "cpu":
        return [CPU]
    halves = [replace(head, name=f"{head.name}-half", supervised=0.5) for head in HEADS]
    first, *others = HEADS
    return [halves[0], first, *halves[1:], *others]
