"""Reference log-probs: computed once, through the same code path as the policy's, and cached on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tqdm.auto import tqdm

from iwpo_fast.data.batch import flat_batch
from iwpo_fast.data.order import micro_batches
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.files import save_tensors
from iwpo_fast.models.policy import Policy
from iwpo_fast.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceLogps:
    """Log-probs of P pairs under the reference.

    Attributes:
        sequences: float32 [P, 2], summed over the completion, chosen and rejected.
        tokens: float32 rows for chosen and rejected, or None where the data brought only the sums.
    """

    sequences: np.ndarray
    tokens: tuple[Ragged, Ragged] | None = None


def reference_logps(
    policy: Policy,
    pairs: Pairs,
    fingerprint: str,
    *,
    tokens_per_batch: int,
    cache_dir: Path,
    world: World,
) -> ReferenceLogps:
    """Log-probs of every completion under the model as it is before training; a LoRA policy's adapter is off.

    `ref_chosen_logps` and `ref_rejected_logps` columns of the data are taken as they are.

    Args:
        fingerprint: `policy.fingerprint()`, by which results are found again in `cache_dir`.
    """
    if {"ref_chosen_logps", "ref_rejected_logps"} <= pairs.columns.keys():
        given = [pairs.columns["ref_chosen_logps"], pairs.columns["ref_rejected_logps"]]
        return ReferenceLogps(np.stack(given, axis=1).astype(np.float32))
    settings = {
        "tokens": pairs.token_fingerprint(),
        "weights": fingerprint,
        "layout": policy.layout,
        "precision": str(policy.compute_dtype),
        "device": world.device.type,
        "format": 1,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_dir / "reference" / f"{key}.safetensors"
    values = _load(path)
    if values is None:
        values = _compute(policy, pairs, tokens_per_batch, world)
        if world.is_main:
            save_tensors(path, {name: torch.from_numpy(array) for name, array in values.items()}, settings)
    world.barrier()
    tokens = (
        Ragged(values["chosen"], pairs.chosen.offsets),
        Ragged(values["rejected"], pairs.rejected.offsets),
    )
    sums = [_row_sums(part) for part in tokens]
    return ReferenceLogps(np.stack(sums, axis=1).astype(np.float32), tokens)


def _load(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        return dict(load_file(path))
    except SafetensorError:
        logger.warning("The cached reference log-probs in %s cannot be read: computing them again.", path)
        return None


def _compute(policy: Policy, pairs: Pairs, tokens_per_batch: int, world: World) -> dict[str, np.ndarray]:
    """float32 values of every completion token, laid out as `pairs.chosen` and `pairs.rejected` are."""
    chosen = torch.zeros(len(pairs.chosen.values))
    rejected = torch.zeros(len(pairs.rejected.values))
    batches = micro_batches(np.arange(len(pairs)), pairs.tokens, budget=tokens_per_batch, ranks=world.size)
    bar = tqdm(
        total=len(batches[world.rank]),
        desc="reference log-probs",
        unit="batch",
        disable=None if world.is_main else True,
    )
    was_training = policy.training
    policy.eval()
    adapter_off = policy.disable_adapter() if policy.has_adapter else contextlib.nullcontext()
    with torch.no_grad(), adapter_off, bar:
        for rows in batches[world.rank]:
            if len(rows):
                batch = flat_batch(pairs, rows).to(world.device)
                logps = policy(batch).float().cpu()
                starts = batch.segments.cpu()
                for i, row in enumerate(rows):
                    for out, part, s in (
                        (chosen, pairs.chosen, i),
                        (rejected, pairs.rejected, i + len(rows)),
                    ):
                        out[part.offsets[row] : part.offsets[row + 1]] = logps[starts[s] : starts[s + 1]]
            bar.update()
    policy.train(was_training)
    # Each rank filled its own rows and left zeros elsewhere, so the sum joins them.
    for values in (chosen, rejected):
        values.copy_(world.sum_(values.to(world.device)).cpu())
    return {"chosen": chosen.numpy(), "rejected": rejected.numpy()}


def _row_sums(part: Ragged) -> np.ndarray:
    """float64 sum of each row, also of empty ones."""
    totals = np.concatenate([[0.0], np.cumsum(part.values, dtype=np.float64)])
    return totals[part.offsets[1:]] - totals[part.offsets[:-1]]
