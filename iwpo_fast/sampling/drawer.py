"""One function that draws completions, whatever draws them: transformers' generation or vLLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Literal

from transformers import GenerationConfig, PreTrainedTokenizerBase

from iwpo_fast.config import CandidateConfig, ModelConfig
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.pretrained import model_location
from iwpo_fast.sampling import by_transformers, by_vllm
from iwpo_fast.sampling.blocks import Draw
from iwpo_fast.world import World

Backend = Literal["transformers", "vllm"]
Drawer = Callable[[Ragged, CandidateConfig, int], list[Draw]]
"""From token ids of prompts, settings and a seed, to a completion of each prompt."""


def backend_of(asked: str, model: ModelConfig, world: World) -> Backend:
    """`candidates.backend`, where `auto` is vllm on one GPU that has it, for a model that it reads as we do."""
    if asked != "auto":
        return "vllm" if asked == "vllm" else "transformers"
    suits = world.device.type == "cuda" and world.size == 1 and model.quantize == "none"
    suits = suits and model.adapter is None
    return "vllm" if suits and find_spec("vllm") is not None else "transformers"


def ends_of_answers(model: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: the tokenizer's, and those that the model brings, such as the end of a turn.

    Args:
        model: folder or hub id.
    """
    try:
        of_model = GenerationConfig.from_pretrained(model_location(model)).eos_token_id
    except OSError:
        of_model = None
    more = of_model if isinstance(of_model, list) else [of_model]
    return sorted({tokenizer.eos_token_id, *(end for end in more if end is not None)})


def drawn_by_policy(policy: Policy, *, ends: Sequence[int], pad: int) -> Drawer:
    """Draws by transformers' generation."""

    def draw(prompts: Ragged, asked: CandidateConfig, seed: int) -> list[Draw]:
        return by_transformers.draw_block(policy, prompts, asked, ends=ends, pad=pad, seed=seed)

    return draw


def drawn_by_engine(model: ModelConfig, *, ends: Sequence[int], max_length: int, seed: int) -> Drawer:
    """Draws by vLLM, which is started here."""
    engine = by_vllm.start_engine(model, max_length=max_length, seed=seed)

    def draw(prompts: Ragged, asked: CandidateConfig, seed: int) -> list[Draw]:
        return by_vllm.draw_block(engine, prompts, asked, ends=ends, seed=seed)

    return draw


def text_of(drawn: Draw, tokenizer: PreTrainedTokenizerBase) -> str:
    """A completion without special tokens, its white space as it was drawn."""
    return str(tokenizer.decode(drawn.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
