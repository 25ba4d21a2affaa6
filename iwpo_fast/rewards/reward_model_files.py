"""The folder of a reward model: `reward_model.json`, `arrays.safetensors`, `report.json` and perhaps `adapters/`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iwpo_fast import checksums
from iwpo_fast.checksums import Damaged
from iwpo_fast.files import load_record, load_tensors, save_json, save_record, save_tensors, written_aside
from iwpo_fast.rewards.features import RECIPE
from iwpo_fast.rewards.fold_adapters import adapter_of
from iwpo_fast.versions import version_of

RECORD, ARRAYS, REPORT = "reward_model.json", "arrays.safetensors", "report.json"
FORMAT = 1
PESSIMISTIC = 2
"""Format of folders with pessimism, which earlier versions would leave out."""
TUNED = 3
"""Format of folders with adapters, which earlier versions would leave out."""

Arrays = dict[str, dict[str, np.ndarray]]
"""Arrays by part of the reward model, such as `clusters`, and by name inside it."""


def save(
    folder: Path,
    arrays: Mapping[str, Mapping[str, Any]],
    record: dict[str, Any],
    report: dict[str, Any],
    adapters: Sequence[Path] = (),
) -> None:
    """Write the folder aside, then give it its name; the record holds the hashes of all other files, and its own.

    Args:
        adapters: folder of each fold's, which is copied.
    """
    tensors = {
        f"{part}.{name}": torch.from_numpy(np.ascontiguousarray(values))
        for part, of_part in arrays.items()
        for name, values in of_part.items()
    }
    with written_aside(folder) as aside:
        aside.mkdir()
        save_tensors(aside / ARRAYS, tensors)
        save_json(aside / REPORT, report)
        hashes: dict[str, Any] = {"arrays": _hash(aside / ARRAYS), "report": _hash(aside / REPORT)}
        if adapters:
            hashes["adapters"] = [_copied(path, adapter_of(aside, fold)) for fold, path in enumerate(adapters)]
        made = {"format": _format(record | hashes), "made_by": f"iwpo-fast {version_of('iwpo-fast')}"} | hashes
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
        for adapter, hashes in zip(adapters_in(folder, record), record.get("adapters", []), strict=True):
            if changed := checksums.changed(adapter, hashes):
                raise Damaged(adapter / changed[0])
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        arrays: Arrays = {}
        for name, values in load_tensors(folder / ARRAYS).items():
            part, _, inside = name.partition(".")
            arrays.setdefault(part, {})[inside] = values
    return arrays, record, report


def adapters_in(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """Where the adapter of each fold is; empty where the language model was not tuned."""
    return [adapter_of(folder, fold) for fold in range(len(record.get("adapters", [])))]


def _copied(adapter: Path, place: Path) -> dict[str, str]:
    """Hash of each file of an adapter, which is then there too."""
    shutil.copytree(adapter, place)
    return checksums.of_files(place, place.iterdir())


def _format(record: Mapping[str, Any]) -> int:
    if "adapters" in record:
        return TUNED
    return PESSIMISTIC if "pessimism" in record else FORMAT


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
    if version not in (FORMAT, PESSIMISTIC, TUNED):
        raise _OtherVersion(
            f"The reward model in {folder} has the format {version}, and this version reads {FORMAT} to {TUNED}: make "
            "it again with iwpo run, or take the version that made it."
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
