"""Probe at load time: our log-probs of a few random tokens against the model's own logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.models.policy import Policy

LENGTHS = (7, 5)

AMPLITUDE = 30.0
"""Largest logit of the self-test, in nats: large enough that a softcap shows."""

TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.05}
"""Relative to `AMPLITUDE`: far above rounding, far below what a misunderstood head or attention does."""


def largest_error(policy: Policy) -> float:
    """Largest |difference| of log-probs, in nats, between the policy and the model's own forward.

    Two short random sequences go through the policy as one batch, and through the model one at a time.
    Hidden states are amplified in front of the head on both sides until the largest logit is `AMPLITUDE`,
    since untrained weights give logits so small that a softcap would not be seen.
    """
    was_training = policy.training
    policy.eval()
    with torch.no_grad():
        batch = random_batch(policy)
        hidden = policy.hidden_states(batch)
        raw = hidden.float() @ policy.head.linear.weight.float().T
        gain = AMPLITUDE / raw.abs().max().clamp_min(1e-6).item()
        ours = policy.head.token_logps(gain * hidden, batch.labels, batch.hidden_index, policy.compute_dtype)
        assert isinstance(ours, Tensor)
        theirs = own_logps(policy, batch, gain)
    policy.train(was_training)
    return (ours - theirs).abs().max().item()


def tolerance(policy: Policy) -> float:
    """Largest error, in nats, that rounding explains."""
    return AMPLITUDE * TOLERANCE[policy.compute_dtype]


def random_batch(policy: Policy) -> FlatBatch:
    """A batch of two sequences in which every token is supervised by a random label."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(LENGTHS)
    ids, labels = torch.randint(policy.head.linear.out_features, (2, tokens), generator=generator)
    bounds = torch.tensor([0, LENGTHS[0], tokens])
    return FlatBatch(
        input_ids=ids,
        position_ids=torch.cat([torch.arange(n) for n in LENGTHS]),
        cu_seqlens=bounds.int(),
        max_seqlen=max(LENGTHS),
        hidden_index=torch.arange(tokens),
        labels=labels,
        segments=bounds,
        weight=torch.ones(1),
        label_smoothing=None,
        ref_logps=None,
        ref_token_logps=None,
        scores=None,
        rows=torch.zeros(1, dtype=torch.int64),
    ).to(policy.device)


def own_logps(policy: Policy, batch: FlatBatch, gain: float = 1.0) -> Tensor:
    """float32 [N] log-probs of the batch's labels from the model's own logits, each sequence run alone.

    Args:
        gain: factor on the hidden states, in front of the head.
    """
    bounds = batch.cu_seqlens.tolist()
    logits = []
    with policy.plain_attention() as model, _amplified(policy.head.module, gain), policy.autocast():
        for begin, end in pairwise(bounds):
            logits.append(model(input_ids=batch.input_ids[None, begin:end], use_cache=False).logits[0].float())
    logps = torch.cat(logits)[batch.hidden_index].log_softmax(-1)
    return logps.gather(-1, batch.labels[:, None]).squeeze(-1)


@contextmanager
def _amplified(head: nn.Module, gain: float) -> Iterator[None]:
    hook = head.register_forward_pre_hook(lambda _, inputs: (gain * inputs[0], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()
