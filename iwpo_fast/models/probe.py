"""Probe at load time: our log-probs of a few random tokens against the model's own logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models.attention import AttentionMetadata
from iwpo_fast.models.attention.context_slice import ContextSlice
from iwpo_fast.models.policy import Policy

LENGTHS = (3, 4, 2)
"""Of the prompt, the chosen and the rejected completion; in a context so many for each process, whose parts would
otherwise be of one query, which some kernels take as not causal."""

AMPLITUDE = 30.0
"""Largest logit of the self-test, in nats: large enough that a softcap shows."""

TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.05}
"""Relative to `AMPLITUDE`: far above rounding, far below what a misunderstood head or attention does."""

WINDOW = 2
"""Tokens of a window in the self-test, where training is longer than the window, so that the test is too."""

WINDOWS = ("sliding_window", "index_topk")
"""How many tokens a query sees at most: its neighbours, or those that an indexer chooses (DeepSeek, GLM)."""


def largest_error(policy: Policy, max_length: int | None = None) -> float:
    """Largest |difference| of log-probs, in nats, between the policy and the model's own forward.

    Two short random sequences go through the policy as one batch, and through the model one at a time.
    Hidden states are amplified in front of the head on both sides until the largest logit is `AMPLITUDE`,
    since untrained weights give logits so small that a softcap would not be seen.

    Args:
        max_length: longest sequence to come, in tokens; None where it is not known.
    """
    was_training = policy.training
    policy.eval()
    with torch.no_grad(), _short_windows(policy.causal_lm, max_length):
        batch = _with_rehearsal(policy.ready(random_batch(policy)))
        hidden = policy.hidden_states(batch)
        raw = hidden.float() @ policy.head.linear.weight.float().T
        gain = AMPLITUDE / raw.abs().max().clamp_min(1e-6).item()
        ours = policy.head.token_logps(gain * hidden, batch.labels, batch.hidden_index, policy.compute_dtype)
        theirs = native_logps(policy, batch, gain)
        policy.release()
    policy.train(was_training)
    return (ours - theirs).abs().max().item()


def tolerance(policy: Policy) -> float:
    """Largest error, in nats, that rounding explains."""
    return AMPLITUDE * TOLERANCE[policy.compute_dtype]


def random_batch(policy: Policy) -> FlatBatch:
    """A batch of two sequences with one prompt, in which every token is supervised by a random label."""
    rng = np.random.default_rng(0)
    vocabulary = policy.head.linear.out_features
    processes = 1 if policy.context is None else policy.context.size
    prompt, chosen, rejected = (Ragged.from_rows([rng.integers(0, vocabulary, processes * n)]) for n in LENGTHS)
    batch = flat_batch(Pairs(prompt, chosen, rejected, weight=np.ones(1)), np.arange(1))
    labels = torch.from_numpy(rng.integers(0, vocabulary, batch.tokens))
    return replace(batch, hidden_index=torch.arange(batch.tokens), labels=labels).to(policy.device)


def native_logps(policy: Policy, batch: FlatBatch, gain: float = 1.0) -> Tensor:
    """float32 [N] log-probs of the batch's labels from the model's own logits, each sequence run alone.

    Args:
        gain: factor on the hidden states, in front of the head.
    """
    bounds, tokens = batch.cu_seqlens.tolist(), batch.input_ids[batch.expand_index]
    logits = []
    with policy.plain_attention() as model, _amplified(policy.head.module, gain), policy.autocast():
        for begin, end in pairwise(bounds):
            logits.append(model(input_ids=tokens[None, begin:end], use_cache=False).logits[0].float())
    logps = torch.cat(logits)[batch.compact_index[batch.hidden_index]].log_softmax(-1)
    return logps.gather(-1, batch.labels[:, None]).squeeze(-1)


def _with_rehearsal(batch: FlatBatch) -> FlatBatch:
    """Flat layouts run the backward pass of their attention too, so that one without is found before the first step."""
    tables = batch.tables
    if isinstance(tables, ContextSlice):
        return replace(batch, tables=replace(tables, attention=replace(tables.attention, rehearsal=True)))
    return replace(batch, tables=replace(tables, rehearsal=True)) if isinstance(tables, AttentionMetadata) else batch


@contextmanager
def _short_windows(model: PreTrainedModel, max_length: int | None) -> Iterator[None]:
    """Windows shorter than `max_length` have `WINDOW` tokens, in the configuration and in the layers."""
    places: list[Any] = [model.config.get_text_config(), *model.modules()]
    given = [(place, name, getattr(place, name, None)) for place in places for name in WINDOWS]
    windows = [(place, name, window) for place, name, window in given if isinstance(window, int) and window]
    windows = [found for found in windows if max_length is None or max_length > found[2]]
    for place, name, _ in windows:
        setattr(place, name, WINDOW)
    try:
        yield
    finally:
        for place, name, window in windows:
            setattr(place, name, window)


@contextmanager
def _amplified(head: nn.Module, gain: float) -> Iterator[None]:
    hook = head.register_forward_pre_hook(lambda _, inputs: (gain * inputs[0], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()
