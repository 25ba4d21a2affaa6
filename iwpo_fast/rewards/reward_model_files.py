"""The folder of a reward model: `reward_model.json`, `arrays.safetensors` and `report.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iwpo_fast.checksums import Damaged
from iwpo_fast.files import load_record, load_tensors, save_json, save_record, save_tensors, written_aside
from iwpo_fast.rewards.features import RECIPE
from iwpo_fast.versions import version_of

RECORD, ARRAYS, REPORT = "reward_model.json", "arrays.safetensors", "report.json"
FORMAT = 1
PESSIMISTIC = 2
"""Format of folders with pessimism, which earlier versions would leave out."""

Arrays = dict[str, dict[str, np.ndarray]]
"""Arrays by part of the reward model, such as `clusters`, and by name inside it."""


def save(folder: Path, arrays: Mapping[str, Mapping[str, Any]], record: dict[str, Any], report: dict[str, Any]) -> None:
    """Write the folder aside, then give it its name; the record holds the hashes of arrays and report, and its own."""
    tensors = {
        f"{part}.{name}": torch.from_numpy(np.ascontiguousarray(values))
        for part, of_part in arrays.items()
        for name, values in of_part.items()
    }
    with written_aside(folder) as aside:
        aside.mkdir()
        save_tensors(aside / ARRAYS, tensors)
        save_json(aside / REPORT, report)
        hashes = {"arrays": _hash(aside / ARRAYS), "report": _hash(aside / REPORT)}
        made = {
            "format": PESSIMISTIC if "pessimism" in record else FORMAT,
            "made_by": f"iwpo-fast {version_of('iwpo-fast')}",
        } | hashes
        save_record(aside / RECORD, record | made)


def load(folder: Path) -> tuple[Arrays, dict[str, Any], dict[str, Any]]:
    """Arrays, record and report.

    Raises:
        ValueError: there is no reward model in the folder, it is damaged, or it is of a version that is not read here.
    """
    if not (folder / RECORD).is_file():
        raise ValueError(
            f"{folder} holds no reward model: give the folder rewards/reward_model of an output_dir of iwpo run."
        )
    with damage(folder):
        record = load_record(folder / RECORD)
        _check_versions(folder, record["format"], record["features"])
        if _hash(folder / ARRAYS) != record["arrays"]:
            raise Damaged(folder / ARRAYS)
        if "report" in record and _hash(folder / REPORT) != record["report"]:  # earlier versions had none of it
            raise Damaged(folder / REPORT)
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        arrays: Arrays = {}
        for name, values in load_tensors(folder / ARRAYS).items():
            part, _, inside = name.partition(".")
            arrays.setdefault(part, {})[inside] = values
    return arrays, record, report


@contextmanager
def damage(folder: Path) -> Iterator[None]:
    """Whatever a damaged folder leads to in the body becomes one sentence."""
    try:
        yield
    except _OtherVersion as error:
        raise ValueError(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The reward model in {folder} is damaged: copy it again, or make it with iwpo run."
        ) from error


def digests(keys: Iterable[str]) -> np.ndarray:
    """uint8 [K, 16] of hex digests, sorted."""
    return np.frombuffer(bytes.fromhex("".join(sorted(keys))), dtype=np.uint8).reshape(-1, 16).copy()


def keys(digests: np.ndarray) -> Iterator[str]:
    """Hex digests of uint8 [K, 16]."""
    return (row.tobytes().hex() for row in digests)


class _OtherVersion(Exception):
    """The folder is whole, but not for this version."""


def _check_versions(folder: Path, version: Any, features: Mapping[str, Any]) -> None:
    if version not in (FORMAT, PESSIMISTIC):
        raise _OtherVersion(
            f"The reward model in {folder} has the format {version}, and this version reads {FORMAT} and "
            f"{PESSIMISTIC}: make it again with iwpo run, or take the version that made it."
        )
    for name, ours in RECIPE.items():
        if features[name] != ours:
            raise _OtherVersion(
                f"The reward model in {folder} reads features of another recipe ({name}: {features[name]}) than this "
                f"version of iwpo-fast makes ({ours}): make it again with iwpo run, or take the version that made it."
            )


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
