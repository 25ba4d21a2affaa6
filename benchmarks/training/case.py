"""What is trained: a model of random weights, pairs, and how many of them a step and a micro-batch take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import peft
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from iwpo_fast.data.pairs import Pairs

BETA = 0.1
LEARNING_RATE = 5e-4
BETAS = (0.9, 0.999)  # TRL's default
MAX_GRAD_NORM = 1.0
SEED = 0
Network = PreTrainedModel | peft.PeftModel


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder; `inner` is the width of its MLP."""

    name: str
    family: Literal["llama", "qwen2"]
    vocab: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        data: name of the pairs.
        micro_pairs: pairs of one forward and backward pass, the settings to try.
        lora: adapters on a frozen model instead of all weights.
        threads: of PyTorch on a CPU.
    """

    name: str
    model: ModelShape
    data: str
    pairs_per_step: int
    micro_pairs: tuple[int, ...]
    lora: bool
    device: str
    threads: int

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.startswith("cuda") else torch.float32

    @property
    def weights_dtype(self) -> torch.dtype:
        """Of the model; what is trained is float32, the frozen base of a LoRA is as it computes."""
        return self.compute_dtype if self.lora else torch.float32


@dataclass(frozen=True)
class Job:
    """One contender's part in a case.

    Attributes:
        pairs: rows of all steps, in order; step s takes `pairs_per_step` of them from s · `pairs_per_step`.
        reference: float32 [P, 2], log-probs of chosen and rejected completions under the initial model.
        micro_pairs: pairs of one forward and backward pass.
    """

    case: Case
    pairs: Pairs
    reference: np.ndarray
    micro_pairs: int

    @property
    def steps(self) -> int:
        return len(self.pairs) // self.case.pairs_per_step

    def rows(self, step: int) -> np.ndarray:
        size = self.case.pairs_per_step
        return np.arange(step * size, (step + 1) * size)


def build_model(case: Case) -> PreTrainedModel:
    """The model on its device; the same seed gives the same weights."""
    shape = case.model
    config: dict[str, Any] = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[shape.family]
    torch.manual_seed(SEED)
    with torch.device(case.device):
        return AutoModelForCausalLM.from_config(kind(**config), dtype=case.weights_dtype, attn_implementation="sdpa")


def lora_config() -> peft.LoraConfig:
    """The default of our configuration: rank 16 on all linear layers but the head."""
    return peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM, r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"
    )


def with_adapters(case: Case, model: PreTrainedModel) -> Network:
    """The model, with fresh LoRA adapters where the case has them."""
    torch.manual_seed(SEED)
    return peft.get_peft_model(model, lora_config()) if case.lora else model
