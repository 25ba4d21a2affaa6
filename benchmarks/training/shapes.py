"""Models and cases, by device."""

from __future__ import annotations

from benchmarks.training.case import Case, ModelShape

RECIPE = ModelShape("recipes/hh_tiny", "llama", 2048, 128, 384, 2, 4, 4, tied=True)
WIDE = ModelShape("tiny with 32,000 tokens", "llama", 32000, 256, 768, 2, 4, 4, tied=True)
SMOKE = ModelShape("smoke", "qwen2", 512, 64, 128, 2, 4, 2, tied=True)
QWEN_HALF = ModelShape("Qwen2.5-0.5B", "qwen2", 151936, 896, 4864, 24, 14, 2, tied=True)
QWEN_ONE_AND_HALF = ModelShape("Qwen2.5-1.5B", "qwen2", 151936, 1536, 8960, 28, 12, 2, tied=True)
LLAMA_EIGHT = ModelShape("Llama-3.1-8B", "llama", 128256, 4096, 14336, 32, 32, 8, tied=False)
MAX_LENGTH = {"cpu": 256, "cuda": 1024}
HH_FILE = "HH harmless"


def cpu_cases(threads: int) -> list[Case]:
    """On the pairs of a file."""
    return [
        Case("recipe", RECIPE, HH_FILE, 32, (32, 8), lora=False, device="cpu", threads=threads),
        Case("wide", WIDE, HH_FILE, 16, (16, 4), lora=False, device="cpu", threads=threads),
    ]


def gpu_cases() -> list[Case]:
    """On synthetic lengths, the most important first."""

    def case(model: ModelShape, data: str, micro_pairs: int, lora: bool = False) -> Case:
        name = f"{model.name}{' LoRA' if lora else ''}, {data}"
        return Case(name, model, data, 16, (micro_pairs,), lora=lora, device="cuda", threads=1)

    return [
        case(QWEN_ONE_AND_HALF, "UltraFeedback", 4),
        case(LLAMA_EIGHT, "UltraFeedback", 2, lora=True),
        case(QWEN_HALF, "HH", 16),
        case(QWEN_HALF, "TL;DR", 8),
        case(QWEN_ONE_AND_HALF, "HH", 8),
        case(LLAMA_EIGHT, "HH", 8, lora=True),
        case(QWEN_ONE_AND_HALF, "TL;DR", 4),
        case(LLAMA_EIGHT, "TL;DR", 4, lora=True),
        case(QWEN_HALF, "UltraFeedback", 8),
        case(QWEN_ONE_AND_HALF, "UltraFeedback", 4, lora=True),
    ]


def smoke_cases(device: str) -> list[Case]:
    """To see that everything works."""
    names = {"smoke": False, "smoke LoRA": True}
    return [Case(name, SMOKE, "HH", 4, (4, 2), lora=lora, device=device, threads=1) for name, lora in names.items()]
