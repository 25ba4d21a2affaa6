"""Reference log-probs on disk, found again by what they depend on: tokens, weights, layout, attention, precision."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from iwpo_fast.checksums import Damaged
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import digests
from iwpo_fast.files import load_tensors, save_tensors
from iwpo_fast.models.policy import Policy
from iwpo_fast.world import World

logger = logging.getLogger(__name__)

Settings = dict[str, str | int]
"""What results of a pass depend on, by which they are found in the cache."""


def load_logps(cache_dir: Path, policy: Policy, pairs: Pairs) -> dict[str, np.ndarray] | None:
    """float32 `chosen`, `rejected` and, if there are any, `candidates`, laid out as those token ids are; 0 for context.

    None if there is nothing to read, or what is there is damaged.
    """
    found: dict[str, np.ndarray] = {}
    for settings, _ in _files(policy, pairs):
        path = _path(cache_dir, settings)
        if not path.exists():
            return None
        try:
            found |= load_tensors(path)
        except Damaged:
            logger.warning("The cached reference log-probs in %s are damaged: computing them again.", path)
            return None
    return found


def save_logps(cache_dir: Path, policy: Policy, pairs: Pairs, values: dict[str, np.ndarray]) -> None:
    for settings, names in _files(policy, pairs):
        tensors = {name: torch.from_numpy(values[name]) for name in names}
        save_tensors(_path(cache_dir, settings), tensors, settings)


def keep_logps(cache_dir: Path, policy: Policy, pairs: Pairs, known: Pairs, world: World) -> None:
    """Put log-probs of `pairs` where `with_reference` finds them, from those of the same responses in `known`.

    Nothing is put where a response is not among the known ones. All ranks call it.

    Args:
        pairs: without candidates.
        known: pairs and candidates for which `with_reference` has been called, with the same policy.
    """
    # All ranks read, because they share the fingerprint of a sharded policy.
    there, values = (load_logps(cache_dir, policy, some) for some in (pairs, known))
    found = None if there is not None or values is None else _of_known(pairs, known, values)
    if found is not None and world.is_main:
        save_logps(cache_dir, policy, pairs, found)
    world.barrier()


def _of_known(pairs: Pairs, known: Pairs, values: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """What `load_logps` gives for `pairs`, from what it gave for `known`; None where a response is not there."""
    place = {key: row for row, key in enumerate(_keys(known))}
    rows = np.array([place.get(key, -1) for key in _keys(pairs)])
    there = np.ones(len(rows), dtype=bool) if pairs.present is None else pairs.present.T.ravel()
    if (rows[there] < 0).any():
        return None
    parts = [Ragged(values["chosen"], known.chosen.offsets), Ragged(values["rejected"], known.rejected.offsets)]
    if known.candidates is not None:
        parts.append(Ragged(values["candidates"], known.candidates.completions.offsets))
    logps = Ragged.concatenate([*parts, Ragged.from_rows([[]], dtype=np.float32)])
    rows[~there] = len(logps) - 1  # a completion that is absent has no tokens
    return {name: logps.take(side).values for name, side in zip(("chosen", "rejected"), np.split(rows, 2), strict=True)}


def _keys(pairs: Pairs) -> list[tuple[bytes, bytes]]:
    """Prompt and completion of every chosen, then rejected response, then candidate."""
    prompt = digests(pairs.prompt)
    keys = [key for side in (pairs.chosen, pairs.rejected) for key in zip(prompt, digests(side), strict=True)]
    if (others := pairs.candidates) is not None:
        keys += zip((prompt[i] for i in others.pair), digests(others.completions), strict=True)
    return keys


def _files(policy: Policy, pairs: Pairs) -> list[tuple[Settings, tuple[str, ...]]]:
    """What the log-probs in each file of the cache depend on, and their names.

    Those of pairs do not depend on candidates, so that training finds them without.
    """
    of_pairs = pass_settings(policy, replace(pairs, candidates=None)) | {"format": 2}
    files: list[tuple[Settings, tuple[str, ...]]] = [(of_pairs, ("chosen", "rejected"))]
    if pairs.candidates is not None:
        files.append((pass_settings(policy, pairs) | {"format": 2}, ("candidates",)))
    return files


def _path(cache_dir: Path, settings: Settings) -> Path:
    return cache_dir / "reference" / f"{cache_key(settings)}.safetensors"


def pass_settings(policy: Policy, pairs: Pairs) -> Settings:
    """What the results of a pass over `pairs` and their candidates depend on."""
    candidates: Settings = {} if pairs.candidates is None else {"candidates": pairs.candidates.token_fingerprint()}
    rope: Settings = {} if policy.rope.limit is None else {"rope": "by sequence, behind context too"}
    return (
        candidates
        | rope
        | {
            "tokens": pairs.token_fingerprint(),
            "weights": policy.fingerprint,
            "layout": policy.layout,
            "attention": policy.attention,
            "compiled": policy.is_compiled,
            "precision": str(policy.compute_dtype),
            "device": policy.device.type,
        }
    )


def cache_key(settings: Settings) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
