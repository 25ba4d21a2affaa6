"""The files of a model's folder: those that we saved are as they were, and weights are not pickled."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from iwpo_fast import checksums
from iwpo_fast.checksums import Damaged
from iwpo_fast.files import load_record, save_record

RECORD = "checksums.json"
"""The hash of every other file, in a folder that we saved, except of the card."""

CARD = "README.md"
"""What the model is, for people, who may write more of it."""

WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SETTINGS = ("config.json", "adapter_config.json")


def keep_hashes(folder: Path) -> None:
    """Write `checksums.json` beside the files that are in the folder."""
    save_record(folder / RECORD, {"files": checksums.of_files(folder, _files(folder))})


def is_whole(folder: Path) -> bool:
    """A model is in the folder, as it was saved; one that an earlier version saved has its weights whole."""
    if (folder / RECORD).exists():
        try:
            return not _changed(folder, weights=True)
        except Damaged:
            return False
    weights = list(folder.glob(f"*{WEIGHTS}"))
    return any((folder / name).exists() for name in SETTINGS) and bool(weights) and all(map(_has_its_length, weights))


def check_saved(folder: Path, setting: str, *, weights: bool) -> None:
    """Raise ValueError if a file that we saved in the folder has changed, or the weights there are pickled.

    Args:
        setting: what names the folder, for the message.
        weights: whether weights are read now, and looked at; reading a tokenizer need not.
    """
    if not folder.is_dir():
        return
    if weights:
        _refuse_pickles(folder, setting)
    if (folder / RECORD).exists() and (name := _changed(folder, weights=weights)):
        raise ValueError(
            f"{setting} {folder} is not as it was saved, {name} is damaged or gone: copy or save it again, or delete "
            f"{RECORD} there if you have changed it yourself."
        )


def _changed(folder: Path, *, weights: bool) -> str | None:
    """The first file that is not as it was saved."""
    files: dict[str, str] = load_record(folder / RECORD).get("files", {})
    wanted = {name: digest for name, digest in files.items() if weights or not name.endswith(WEIGHTS)}
    return next(iter(checksums.changed(folder, wanted)), None)


def _refuse_pickles(folder: Path, setting: str) -> None:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    named = [name for index in folder.glob(f"*{WEIGHTS}.index.json") for name in _named_in(index)]
    elsewhere = [name for name in named if not name.endswith(WEIGHTS)]
    if elsewhere or (pickled and not any(folder.glob(f"*{WEIGHTS}"))):
        raise pickled_weights(f"{setting} {folder}", (elsewhere or pickled)[0])


def pickled_weights(which: str, name: str) -> ValueError:
    """The sentence about a model whose weights are a pickle."""
    return ValueError(
        f"{which} has pickled weights ({name}), which can run code when they are read: give it as safetensors, which "
        "save_pretrained of a recent transformers writes."
    )


def _named_in(index: Path) -> list[str]:
    """The files of weights that an index names; none where it is none, which its reader says."""
    try:
        return [str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _has_its_length(path: Path) -> bool:
    try:
        with safe_open(path, framework="np") as file:
            return bool(file.keys())
    except (SafetensorError, OSError):
        return False


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in (RECORD, CARD)]
