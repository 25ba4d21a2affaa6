"""The policy, and what of it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from iwpo_fast.limits import BELOW_ONE, POSITIVE


@dataclass
class TinyConfig:
    """Shape of the built-in `tiny` model, a Llama with random weights and a tokenizer trained on your data.

    Args:
        vocab_size: Entries of the byte-level BPE vocabulary.
        hidden_size: Width of the model; a multiple of 32.
        layers: Number of decoder layers.
        heads: Number of attention heads.
    """

    vocab_size: Annotated[int, POSITIVE] = 4096
    hidden_size: Annotated[int, POSITIVE] = 128
    layers: Annotated[int, POSITIVE] = 2
    heads: Annotated[int, POSITIVE] = 4


@dataclass
class LoraConfig:
    """Low-rank adapters instead of full fine-tuning.

    Args:
        rank: Rank of the update matrices.
        alpha: The update is scaled by alpha / rank.
        dropout: Dropout on the input of the adapters.
        target_modules: Names of the adapted linear layers; `all-linear` takes all but the LM head.
        dora: Learn the lengths of a weight's rows apart from their directions, which the update matrices turn (DoRA,
            arXiv 2402.09353).
        rslora: Scale the update by alpha / sqrt(rank), so that it does not shrink with the rank (rsLoRA,
            arXiv 2312.03732).
        modules_to_save: Names of modules that are trained whole and saved beside the adapter, such as [embed_tokens,
            lm_head]. Where head and embedding are one matrix, each becomes a copy of its own.
    """

    rank: Annotated[int, POSITIVE] = 16
    alpha: Annotated[float, POSITIVE] = 32.0
    dropout: Annotated[float, BELOW_ONE] = 0.0
    target_modules: str | list[str] = "all-linear"
    dora: bool = False
    rslora: bool = False
    modules_to_save: list[str] = field(default_factory=list)


@dataclass
class ModelConfig:
    """The policy.

    Args:
        path: Local folder, hub id, or `tiny` (see `tiny`).
        lora: Adapter settings; null trains all weights.
        adapter: Folder of a LoRA adapter on `path`, or of the run that trained it, to start from: what the two are
            together is the reference. Without `lora` this adapter is trained further and saved; with `lora` it is
            merged into the model, on which a new one is trained, and the whole is saved.
        reference: Another model that is the reference, of the same tokens: a folder or hub id. It is held beside the
            policy for the pass over the data alone.
        quantize: `nf4` holds the frozen linear layers under `lora` in 4 bits (QLoRA), except the LM head
            (pip install 'iwpo-fast[qlora]').
        batch_layout: `flat` runs sequences end to end, `padded` pads inside the model wrapper, `auto` takes flat
            wherever the model can.
        share_prompts: Run each prompt of a flat batch once for all its completions; `auto` does so on a CPU wherever
            the model can.
        attention: How flat batches compute attention; `auto` takes the first of flash_attn_3, flash_attn_2, varlen,
            sdpa_by_length and eager_by_length that is installed and can do what the model needs (docs/training.md).
        gradient_checkpointing: What the backward pass recomputes, layer by layer, to save memory: `selective` keeps
            what matrix products and attention return and recomputes the cheap rest, `full` keeps the inputs of layers
            and runs each layer once more, about a third more time.
        offload_activations: Keep the inputs of the layers in host memory, with `gradient_checkpointing: full` on a GPU.
        compile: Compile the layers with torch.compile, which takes minutes at the beginning of a run. Compiled layers
            recompute their cheap operations anyway, so `gradient_checkpointing` can be `none` or `full`.
        neftune_alpha: Add noise of up to alpha / sqrt(L d) to every entry of an embedding while training (NEFTune,
            arXiv 2310.05914), L the tokens of the sequence and d the entries; prompts are then not shared.
        precision: Compute type; `auto` is bf16 on a GPU and fp32 on a CPU. Master weights are fp32 either way.
        revision: Revision of a hub model.
        trust_remote_code: Run code that the model brings in its own folder or repository, of its configuration, its
            tokenizer and itself, and of `rewards.model`. Read that code first: it can do whatever you can.
        tiny: Shape of the built-in model.
    """

    path: str = "tiny"
    lora: LoraConfig | None = None
    adapter: str | None = None
    reference: str | None = None
    quantize: Literal["none", "nf4"] = "none"
    batch_layout: Literal["auto", "flat", "padded"] = "auto"
    share_prompts: bool | Literal["auto"] = "auto"
    attention: Literal["auto", "flash_attn_3", "flash_attn_2", "varlen", "sdpa_by_length", "eager_by_length"] = "auto"
    gradient_checkpointing: Literal["none", "selective", "full"] = "none"
    offload_activations: bool = False
    compile: bool = False
    neftune_alpha: Annotated[float, POSITIVE] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    tiny: TinyConfig = field(default_factory=TinyConfig)
