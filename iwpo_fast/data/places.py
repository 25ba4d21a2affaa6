"""Which files a `data.path` means: a file, a pattern, a folder of files, or a list of these."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from iwpo_fast.data.row_files import FORMS, KNOWN, first_line
from iwpo_fast.extras import needed
from iwpo_fast.paths import expanded, looks_local
from iwpo_fast.terminal import escaped

SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Files of which one at least stands in a folder that `save_to_disk` wrote."""


class Place(NamedTuple):
    """Where rows lie.

    Attributes:
        path: file, pattern, folder or hub id, or a list of files, patterns and folders.
        split: None takes the only one there is. A file is its own split `train`.
        name: of the configuration, where a hub id or a folder has several.
        setting: what `path` is called in the configuration, for messages.
    """

    path: str | list[str]
    split: str | None = None
    name: str | None = None
    setting: str = "data.path"

    @property
    def title(self) -> str:
        """What the source is called in messages."""
        if isinstance(self.path, str):
            file = expanded(self.path)
            return escaped(file.name if file.exists() else self.path)
        first = Place(self.path[0]).title if self.path else ""
        return first if len(self.path) == 1 else f"{first} and {len(self.path) - 1} more"

    def missing(self, why: str) -> ValueError:
        return ValueError(f"{self.setting} {self.path} {why}")


def files_of(place: Place) -> list[Path] | None:
    """The files that hold the rows, in order; None for a hub id and for what `save_to_disk` wrote.

    Raises:
        ValueError: nothing is there, or it has no such split.
    """
    if isinstance(place.path, list):
        return _of_list(place.path, place)
    path = expanded(place.path)
    if path.is_dir():
        return None if any((path / name).exists() for name in SAVED) else _of_folder(path, place)
    if path.is_file():
        return _checked_split([path], place)
    if glob.has_magic(place.path):
        return _checked_split(_of_pattern(path, place), place)
    _check_is_id(place.path, place)
    return None


def local_files(path: str | list[str]) -> list[Path]:
    """Every file and folder of a path that is on this machine, whatever its splits; none for a hub id."""
    if isinstance(path, list):
        return [file for part in path for file in local_files(part)]
    place = expanded(path)
    return [place] if place.exists() else [Path(found) for found in sorted(glob.glob(str(place), recursive=True))]


def _of_list(paths: list[str], place: Place) -> list[Path]:
    if not paths:
        raise ValueError(f"{place.setting} is an empty list: give it a file at least.")
    found: list[Path] = []
    for path in paths:
        files = files_of(place._replace(path=path))
        if files is None:
            raise ValueError(
                f"{place.setting} lists {path}, which is no file, folder of files or pattern: give a data set of its "
                "own in data.mix."
            )
        found += files
    return found


def _of_pattern(pattern: Path, place: Place) -> list[Path]:
    files = [file for found in sorted(glob.glob(str(pattern), recursive=True)) if (file := Path(found)).is_file()]
    if not files:
        raise place.missing("matches no file: check the pattern.")
    return files


def _of_folder(path: Path, place: Place) -> list[Path]:
    """Which files of a folder belong to the split, as `datasets` finds out from their names and the folder's card."""
    datasets = needed("datasets", by=f"{place.setting} {place.path} is a folder, and reading it")
    if not any(file.name.lower().endswith(KNOWN) for file in path.rglob("*")):
        raise place.missing(f"is a folder that holds no data set and no file of rows: give {FORMS}.")
    try:
        found = datasets.load_dataset_builder(str(path), place.name).config.data_files
    except Exception as error:  # whatever a damaged card or a strange file leads to
        if "onfig name is missing" in str(error):
            raise place.missing(f"has several configurations: set data.name to one ({_listed(error)}).") from error
        raise place.missing(f"is a folder that cannot be read ({first_line(error)}): give {FORMS}.") from error
    by_split = {str(split): [Path(file) for file in files] for split, files in (found or {}).items()}
    return by_split[chosen_split(by_split, place)]


def chosen_split(by_split: Mapping[str, Any], place: Place) -> str:
    """The split that is asked for, or the only one.

    Raises:
        ValueError: there are several and none is asked for, or not the one that is.
    """
    split = place.split
    if split is None and len(by_split) == 1:
        split = next(iter(by_split))
    if split is None or split not in by_split:
        what = "and none is chosen" if split is None else f"not {split}"
        raise place.missing(f"has the splits {', '.join(by_split)}, {what}: set one of them.")
    return split


def _checked_split(files: list[Path], place: Place) -> list[Path]:
    if place.split not in (None, "train"):
        raise place.missing(f"is a file and has no split {place.split}: remove the setting of the split.")
    if place.name is not None:
        raise place.missing(f"is a file and has no configuration {place.name}: remove data.name.")
    return files


def _check_is_id(path: str, place: Place) -> None:
    """Nothing is here, so the path can only be a hub id."""
    if looks_local(path) or path.lower().endswith(KNOWN):
        raise place.missing("is not there: check the path.")


def _listed(error: Exception) -> str:
    """The second line of the sentence of `datasets`, which lists the configurations."""
    return [*str(error).splitlines(), ""][1].partition(":")[2].strip()
