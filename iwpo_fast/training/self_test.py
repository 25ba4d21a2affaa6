"""Step 0: the policy is the reference, so every log-prob must agree and the loss must be its value at margin 0."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.training.job import Job

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.5}
"""Largest difference of one token's log-prob that rounding explains: other batches are summed in another order."""


def check_policy_is_reference(job: Job, rows: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> float:
    """Compare the policy's log-probs of some pairs with the reference's.

    Returns:
        The largest difference, of a token, or of a mean over tokens where the data brought only sums.

    Raises:
        ValueError: they differ by more than rounding; names the first token or pair that does.
    """
    policy = job.policy
    was_training = policy.training
    policy.eval()
    batch = flat_batch(job.pairs, rows, ref_tokens=True)
    with torch.no_grad():
        logps = policy(batch.to(job.world.device)).double().cpu().numpy()
    policy.train(was_training)
    if batch.ref_token_logps is not None:
        differences = np.abs(logps - batch.ref_token_logps.numpy())
    else:
        assert batch.ref_logps is not None
        sums = np.array([logps[start:end].sum() for start, end in pairwise(batch.segments.tolist())])
        differences = np.abs(sums - batch.ref_logps.numpy()) / batch.segments.diff().clamp(min=1).numpy()
    largest = float(differences.max())
    wrong = np.flatnonzero(~(differences <= TOLERANCE[policy.compute_dtype]))
    if len(wrong):
        raise ValueError(
            f"policy and reference differ before training by {largest:.3g} nats, first at "
            f"{_where(batch, int(wrong[0]), tokenizer)}: use reference log-probs of this very model, or set "
            "self_test=false if the difference is meant."
        )
    return largest


def _where(batch: FlatBatch, i: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """What entry i of the differences belongs to: a token if the reference of tokens is known, else a completion."""
    by_token = batch.ref_token_logps is not None
    sequence = int(torch.searchsorted(batch.segments, i, right=True)) - 1 if by_token else i
    side, pair = divmod(sequence, batch.pairs)
    name = ("chosen", "rejected")[side]
    completion = f"the {name} completion of pair {int(batch.rows[pair])}"
    if not by_token:
        return f"{completion}, from the column ref_{name}_logps"
    token = tokenizer.convert_ids_to_tokens(int(batch.labels[i]))
    return f"token {i - int(batch.segments[sequence])} ({token!r}) of {completion}"
