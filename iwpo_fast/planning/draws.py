"""What drawing completions will take: one token of each at a time, which waits for memory and not for arithmetic."""

from __future__ import annotations

import numpy as np

from iwpo_fast.config import CandidateConfig
from iwpo_fast.planning.figures import Estimate
from iwpo_fast.planning.memory import cache_bytes, sampling_memory
from iwpo_fast.planning.setting import Setting
from iwpo_fast.planning.work import Work, total
from iwpo_fast.sampling.blocks import Block, blocks_of

AT_ONCE_IN_VLLM = 256
"""Completions that vLLM draws at a time; its own limit by default, `max_num_seqs`."""

HOST_SECONDS_OF_A_LAYER = 1e-3
"""Time at worst in which transformers issues the operations of one layer of a step: an assumption, not measured."""


def sample(setting: Setting) -> Estimate:
    """At best completions are as long as assumed, and memory or arithmetic is all that they wait for.

    At worst they are `max_new_tokens` long, and with transformers the host issues every operation of every step.
    """
    drawn = setting.drawn
    assert drawn is not None
    blocks, lengths = _blocks(setting, drawn)
    works = [_work(lengths[block.prompt], setting.drawn_tokens) for block in blocks]
    best = sum(_seconds(setting, lengths[b.prompt], setting.drawn_tokens, at_best=True) for b in blocks)
    worst = sum(_seconds(setting, lengths[b.prompt], drawn.max_new_tokens, at_best=False) for b in blocks)
    note = f"{len(lengths) * drawn.per_prompt:,} completions of {setting.drawn_tokens} (assumed) to "
    note += f"{drawn.max_new_tokens} tokens, by {_backend(drawn)}"
    return Estimate(
        total(works),
        sum(map(setting.model.forward, works)),
        (best / setting.gpus, worst / setting.gpus),
        _memory(setting, drawn, [lengths[block.prompt] for block in blocks]),
        note,
    )


def _memory(setting: Setting, drawn: CandidateConfig, blocks: list[np.ndarray]) -> dict[str, int]:
    """That of the largest block; each has the tokens of its prompts, int64 [B]."""
    cached = [len(prompts) * (int(prompts.max()) + drawn.max_new_tokens) for prompts in blocks]
    together = max(map(len, blocks), default=0)
    return sampling_memory(setting.config, setting.policy, max(cached, default=0), together, shards=setting.shards)


def _backend(drawn: CandidateConfig) -> str:
    return "vllm" if drawn.backend == "vllm" else "transformers"


def _blocks(setting: Setting, drawn: CandidateConfig) -> tuple[list[Block], np.ndarray]:
    """Completions that are drawn together, and the tokens of every prompt, cut as the stage cuts them."""
    room = setting.config.data.max_length - drawn.max_new_tokens
    lengths = setting.lengths.training.prompts.lengths
    cut = setting.config.data.truncation == "truncate_prompt_left"
    lengths = np.minimum(lengths, room) if cut else lengths[lengths <= room]
    blocks = blocks_of(lengths, drawn, _backend(drawn))
    if _backend(drawn) == "transformers":
        return blocks, lengths
    parts = [np.array_split(np.arange(len(b.prompt)), max(1, -(-len(b.prompt) // AT_ONCE_IN_VLLM))) for b in blocks]
    return [Block(b.prompt[i], b.draw[i]) for b, pieces in zip(blocks, parts, strict=True) for i in pieces], lengths


def _work(prompts: np.ndarray, tokens: int) -> Work:
    """A block of prompts, int64 [B], padded to the longest, and so many tokens more of each."""
    longest, count = int(prompts.max(initial=0)), len(prompts)
    whole = longest + tokens
    return Work(count * whole, count * tokens, count * whole * (whole + 1) // 2, 1, (count * whole, count * tokens))


def _seconds(setting: Setting, prompts: np.ndarray, tokens: int, *, at_best: bool) -> float:
    """Of one block, on one GPU, or on those that hold the model together."""
    policy, gpu = setting.policy, setting.gpu
    share = setting.config.plan.utilisation[1 if at_best else 0]
    work = _work(prompts, tokens)
    arithmetic = setting.model.forward(work) / (gpu.flops * share)
    weights = policy.compute_dtype.itemsize * sum(p.numel() for p in policy.parameters())
    kept = cache_bytes(policy) * len(prompts) * (int(prompts.max(initial=0)) + tokens / 2)
    reading = tokens * (weights + kept) / gpu.bandwidth
    gathering = tokens * weights / gpu.link if setting.shards > 1 else 0.0
    if at_best:
        return max(arithmetic, reading, gathering)
    drawn = setting.drawn
    assert drawn is not None
    host = 0.0 if _backend(drawn) == "vllm" else tokens * setting.model.layers * HOST_SECONDS_OF_A_LAYER
    return max(arithmetic + reading, host) + gathering
