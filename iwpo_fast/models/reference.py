"""Reference log-probs: computed once, through the same code path as the policy's, and cached on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from iwpo_fast.data.ahead import Workers
from iwpo_fast.data.batch import FlatSequences
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged, positions_of
from iwpo_fast.data.unique import Responses, UniqueTexts
from iwpo_fast.files import save_tensors
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.reference_pass import cache_key, pass_batches, pass_settings, visit_batches
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
    workers: Workers = "auto",
    own: bool = False,
) -> ReferenceLogps:
    """Log-probs of every completion under the model as it is before training; a LoRA policy's adapter is off.

    Responses that are in several pairs, as where a prompt has more than two, or a pair is there more than once, are
    computed once. `ref_chosen_logps` and `ref_rejected_logps` columns of the data are taken as they are, unless `own`.

    Args:
        fingerprint: `policy.fingerprint()`, by which results are found again in `cache_dir`.
        workers: `DataConfig.workers`.
        own: by this model, whatever the data bring.
    """
    if not own and (given := given_logps(pairs)) is not None:
        return given
    entry = ReferenceEntry.of(policy, pairs, fingerprint, cache_dir)
    values = entry.load()
    one_lacks_them = world.largest(values is None)
    if values is None or one_lacks_them:  # then all compute, for they wait for one another
        values = _compute(policy, pairs, tokens_per_batch, world, workers)
        if world.is_main:
            entry.save(values)
    world.barrier()
    tokens = (
        Ragged(values["chosen"], pairs.chosen.offsets),
        Ragged(values["rejected"], pairs.rejected.offsets),
    )
    sums = [_row_sums(part) for part in tokens]
    return ReferenceLogps(np.stack(sums, axis=1).astype(np.float32), tokens)


def given_logps(pairs: Pairs) -> ReferenceLogps | None:
    """What the data bring, if they do."""
    if not {"ref_chosen_logps", "ref_rejected_logps"} <= pairs.columns.keys():
        return None
    given = [pairs.columns["ref_chosen_logps"], pairs.columns["ref_rejected_logps"]]
    return ReferenceLogps(np.stack(given, axis=1).astype(np.float32))


@dataclass(frozen=True)
class ReferenceEntry:
    """Where the cache keeps the log-probs of these token ids under this model, and what they depend on."""

    path: Path
    settings: dict[str, str | int]

    @classmethod
    def of(cls, policy: Policy, pairs: Pairs, fingerprint: str, cache_dir: Path) -> ReferenceEntry:
        settings = pass_settings(policy, pairs, fingerprint) | {"format": 2}
        return cls(cache_dir / "reference" / f"{cache_key(settings)}.safetensors", settings)

    def load(self) -> dict[str, np.ndarray] | None:
        """float32 `chosen` and `rejected`, laid out as those token ids are; None if there is nothing to read."""
        if not self.path.exists():
            return None
        try:
            return dict(load_file(self.path))
        except SafetensorError:
            logger.warning("The cached reference log-probs in %s cannot be read: computing them again.", self.path)
            return None

    def save(self, values: dict[str, np.ndarray]) -> None:
        save_tensors(self.path, {name: torch.from_numpy(array) for name, array in values.items()}, self.settings)


def put_values(values: np.ndarray, responses: Responses, rows: np.ndarray, logps: np.ndarray) -> None:
    """Move the log-probs [N] of the batch of these responses to their places among those of all their tokens."""
    completions = responses.completions
    values[positions_of(completions.offsets[rows], completions.lengths[rows])] = logps


def _compute(
    policy: Policy, pairs: Pairs, tokens_per_batch: int, world: World, workers: Workers
) -> dict[str, np.ndarray]:
    responses = Responses.of(pairs, UniqueTexts.of(pairs))
    values = np.zeros(len(responses.completions.values), np.float32)

    def visit(rows: np.ndarray, batch: FlatSequences) -> None:
        put_values(values, responses, rows, policy(batch).float().cpu().numpy())

    batches = pass_batches(policy, responses, tokens_per_batch, world)[world.rank]
    visit_batches(policy, responses, batches, visit, what="reference log-probs", world=world, workers=workers)
    # Each rank filled the places of its own responses and left zeros elsewhere, so the sum joins them.
    return responses.by_pair(world.sum_(torch.from_numpy(values).to(world.device)).cpu().numpy())


def _row_sums(part: Ragged) -> np.ndarray:
    """float64 sum of each row, also of empty ones."""
    totals = np.concatenate([[0.0], np.cumsum(part.values, dtype=np.float64)])
    return totals[part.offsets[1:]] - totals[part.offsets[:-1]]
