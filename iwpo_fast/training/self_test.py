"""Step 0: the policy is the reference, so every log-prob must agree and the loss must be its value at margin 0."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from iwpo_fast.data import Pairs
from iwpo_fast.data.batch import flat_batch
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.reference import ReferenceLogps

# Largest difference of one token's log-prob that rounding explains: batches of another make-up are summed otherwise.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.5}


def check_policy_is_reference(
    policy: Policy,
    pairs: Pairs,
    reference: ReferenceLogps,
    rows: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> float:
    """Compare the policy's log-probs of some pairs with the cached reference's.

    Returns:
        The largest difference, of a token, or of a mean over tokens where the data brought only sums.

    Raises:
        ValueError: they differ by more than rounding; names the first token or pair that does.
    """
    was_training = policy.training
    policy.eval()
    batch = flat_batch(pairs, rows).to(device)
    with torch.no_grad():
        logps = policy(batch).double().cpu().numpy()
    policy.train(was_training)
    tolerance = TOLERANCE[policy.compute_dtype]
    largest = 0.0
    segments = batch.segments.tolist()
    for s, (start, end) in enumerate(pairwise(segments)):
        side, row = divmod(s, len(rows))
        row = int(rows[row])
        name = ("chosen", "rejected")[side]
        if reference.tokens is None:
            difference = np.array([logps[start:end].sum() - reference.sequences[row, side]]) / max(1, end - start)
            where = f"the {name} completion of pair {row}, from the column ref_{name}_logps"
        else:
            difference = logps[start:end] - reference.tokens[side][row]
            wrong = np.flatnonzero(~(np.abs(difference) <= tolerance))
            first = int(wrong[0]) if len(wrong) else 0
            token = tokenizer.convert_ids_to_tokens(int(batch.labels[start + first]))
            where = f"token {first} ({token!r}) of the {name} completion of pair {row}"
        worst = float(np.abs(difference).max())
        if not worst <= tolerance:
            raise ValueError(
                f"policy and reference differ before training by {worst:.3g} nats, first at {where}: "
                "use reference log-probs of this very model, or set self_test=false if the difference is meant."
            )
        largest = max(largest, worst)
    return largest
