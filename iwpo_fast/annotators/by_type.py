"""What a training does once for every type of annotators: computing a batch, telling votes, saving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from iwpo_fast.data.annotators import ANNOTATOR
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.files import save_tensors
from iwpo_fast.models import Policy
from iwpo_fast.models.router import RouterLoss
from iwpo_fast.models.saved_files import keep_hashes
from iwpo_fast.models.sharding import in_lockstep
from iwpo_fast.models.trained import type_name
from iwpo_fast.training.job import Job, batches_ahead


def check_policy(policy: Policy, router: RouterLoss | None) -> None:
    """Raise ValueError for a policy of types that has a loss beside that of pairs, which counts for no type's share."""
    if policy.types is not None and router is not None:
        raise ValueError(
            f"types is set, and the configuration of {type(policy.causal_lm).__name__} asks for the router's auxiliary "
            "loss, which is of no annotator: set output_router_logits to false in its config.json, or leave types out."
        )


def of_each_type(
    policy: Policy, batches: Iterable[tuple[np.ndarray, FlatBatch]]
) -> Iterator[tuple[np.ndarray, FlatBatch]]:
    """Each batch once for every type, whose adapter is in use then, its pairs weighed by their annotators' shares.

    The sum of the losses is Σ_k Σ_i γ_ik ℓ_k(pair_i), in which no type's term has another's parameters: one step of one
    optimiser is the step of each. A policy of all annotators runs each batch as it is.
    """
    for rows, batch in batches:
        if policy.types is None:
            yield rows, batch
            continue
        assert batch.type_shares is not None, "the rows of a training on types bring shares"
        for number, share in enumerate(batch.type_shares.T):
            policy.use(number)
            yield rows, replace(batch, weight=batch.weight * share)


def keep_votes(path: Path, job: Job, which: Literal["held_out", "trained"]) -> None:
    """Write the log-likelihood of every annotator's votes under each type, float64 [A, K], and their numbers, [A].

    A vote is a pair, or a ranking. Votes count alike, whatever their weights. All ranks call it.
    """
    job = (job.evaluation if which == "held_out" else None) or job
    likelihood = likelihoods_of_types(job).cpu()
    of_pair = torch.from_numpy(job.pairs.columns[ANNOTATOR]).long()
    total = torch.zeros(int(of_pair.max()) + 1, likelihood.shape[1], dtype=torch.float64)
    total.index_add_(0, of_pair, likelihood)
    if job.world.is_main:
        save_tensors(path, {"log_likelihood": total, "votes": of_pair.bincount()})
    job.world.barrier()


@torch.no_grad()
def likelihoods_of_types(job: Job) -> Tensor:
    """float64 [P, K] on the device: log-likelihood of every vote under the policy of each type. All ranks call it."""
    policy, types = job.policy.eval(), job.policy.types or 1
    found = torch.zeros(len(job.pairs), types, dtype=torch.float64, device=job.world.device)
    for _, batch in in_lockstep(policy, batches_ahead(job, [np.arange(len(job.pairs))])):
        for number in range(types):
            policy.use(number)
            found[batch.rows, number] = job.loss.log_likelihood(job.loss.token_logps(policy, batch), batch)
    return job.world.sum_(found)


def save_each(
    folder: Path,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    state: dict[str, Tensor] | None,
    dtype: torch.dtype,
    ends: list[int],
) -> None:
    """`Policy.save` into the folder, or for types of annotators into a folder for each inside it."""
    if policy.types is None:
        policy.save(folder, tokenizer, state, dtype, ends)
        return
    for number in range(policy.types):
        policy.use(number)
        policy.save(folder / type_name(number), tokenizer, state, dtype, ends)
    keep_hashes(folder)
