"""Merges an adapter into its base, measures what that changed, and writes the whole model."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from iwpo_fast.command_config import MergeConfig
from iwpo_fast.data.ends import end_of_turn
from iwpo_fast.data.saved_tokenizer import save_tokenizer
from iwpo_fast.files import check_folder, written_aside
from iwpo_fast.limits import check_limits
from iwpo_fast.models import reward_head
from iwpo_fast.models.pretrained import Source, model_location
from iwpo_fast.models.saved_files import keep_hashes
from iwpo_fast.models.saving import Model, merge, save
from iwpo_fast.models.saving import base_of as base_model
from iwpo_fast.models.sound import check_token_ids
from iwpo_fast.models.trained import (
    base_of,
    is_adapter,
    read_adapter,
    read_model,
    read_tokenizer,
    source_of,
    stored_dtype,
    was_in_four_bits,
)
from iwpo_fast.paths import expanded
from iwpo_fast.terminal import escaped

PROBE = 64
"""Tokens on which the adapter and the written model are compared."""


def merge_adapter(config: MergeConfig) -> None:
    """Write `config.output`: a whole model with its tokenizer, which plain transformers loads.

    Raises:
        ValueError: one sentence on what is wrong with the adapter, its base or the output, and what to do.
    """
    check_limits(config)
    source = source_of(config.model, "model", trust_remote_code=config.trust_remote_code)
    if not is_adapter(source):
        read_tokenizer(source)  # says where there is no model at all
        raise ValueError(f"model {config.model} is no adapter, so there is nothing to merge: take it as it is.")
    output = _check_output(config.output)
    base = _base(config, source)
    dtype = stored_dtype(base) if config.dtype == "base" else getattr(torch, config.dtype)
    tokenizer = read_tokenizer(source)
    print(escaped(f"merging {source.path} into {base.path}, in {str(dtype).removeprefix('torch.')}"), flush=True)
    if was_in_four_bits(source):
        print("the adapter was trained on this base in 4 bits; the original differs from those by their rounding")
    before = _write(source, base, output, dtype, tokenizer)
    gc.collect()
    written = read_model(Source(str(output), "output", trust_remote_code=config.trust_remote_code), torch.float32)
    error = (_probe(written, tokenizer) - before).abs().max()
    print(f"log-probs of {PROBE} tokens differ from those of base and adapter by at most {error:.1g} nats, in float32")
    print(escaped(f"the model is in {output}"))


def _check_output(output: str) -> Path:
    path = expanded(output)
    if path.exists() or path.is_symlink():
        raise ValueError(f"output {output} exists, and what is in it would be lost: choose another folder.")
    check_folder("output", path.parent)
    return path


def _base(config: MergeConfig, source: Source) -> Source:
    if config.base is None:
        return base_of(source)._replace(setting="base")
    base = source_of(config.base, "base", trust_remote_code=config.trust_remote_code)
    if is_adapter(base):
        raise ValueError(f"base {config.base} is an adapter itself: merge it first, and give what that writes.")
    return base


def _write(
    source: Source, base: Source, output: Path, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase
) -> Tensor:
    """Write the merged model, and give back the log-probs of base and adapter on the probe."""
    adapted = read_adapter(source, base, torch.float32)
    check_token_ids(tokenizer, base_model(adapted), source.path)
    before = _probe(adapted, tokenizer)
    merged: PreTrainedModel = merge(adapted)
    end = end_of_turn(tokenizer)
    with written_aside(output) as aside:
        aside.mkdir()
        try:
            save(merged, aside, None, dtype, [] if end is None else [end])
        except ValueError as error:
            if "not finite" not in str(error):
                raise
            raise ValueError(f"the merged model has weights that {dtype} cannot hold: set dtype to float32.") from error
        save_tokenizer(tokenizer, aside)
        if reward_head.has_reward_head(folder := Path(model_location(source.path))):
            shutil.copytree(folder / reward_head.NAME, aside / reward_head.NAME)
        keep_hashes(aside)
    return before


@torch.no_grad()
def _probe(model: Model, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """float32 [PROBE - 1], log-probs of ids that are spread over the vocabulary."""
    ids = torch.linspace(0, len(tokenizer) - 1, PROBE).long()[None]
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
