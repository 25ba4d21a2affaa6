"""The record of a pipeline: which stage made which files from what, so that nothing is done twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from iwpo_fast.config import RunConfig
from iwpo_fast.files import save_json
from iwpo_fast.versions import version_of

Result = dict[str, Any]
"""Numbers of a stage."""

PACKAGES = ("iwpo-fast", "torch", "transformers", "scikit-learn", "numpy")


@dataclass
class Entry:
    """One stage.

    Attributes:
        key: hash of its settings and of everything it read.
        settings: the part of the configuration that it depends on.
        outputs: SHA-256 of each file it wrote, by path inside the folder; None while it is at work.
        result: its numbers, such as effective sample sizes.
        versions: of the packages it ran with.
    """

    key: str
    settings: dict[str, Any]
    outputs: dict[str, str] | None = None
    result: Result = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.outputs is not None


class Manifest:
    """`manifest.json`, rewritten whole at every change.

    Raises:
        ValueError: the file is there but is no manifest.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        self.reload()

    def reload(self) -> None:
        """Read what is on disk, so that the other ranks see what rank 0 has recorded."""
        if not self._path.exists():
            return
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))["stages"]
            self._entries = {name: Entry(**entry) for name, entry in found.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._path} is damaged: delete it, and all stages are done again.") from error

    def __getitem__(self, stage: str) -> Entry:
        return self._entries[stage]

    def __contains__(self, stage: str) -> bool:
        return stage in self._entries and self._entries[stage].finished

    def is_current(self, stage: str, key: str) -> bool:
        """The stage is finished, its settings and inputs are the same, and its files are still as it wrote them."""
        if not self.was_started(stage, key):
            return False
        outputs = self._entries[stage].outputs
        return outputs is not None and all(_hash(self._path.parent / path) == outputs[path] for path in outputs)

    def was_started(self, stage: str, key: str) -> bool:
        """The stage was begun with the same settings and inputs, so it can be continued."""
        return stage in self._entries and self._entries[stage].key == key

    def start(self, stage: str, key: str, settings: Mapping[str, Any]) -> None:
        self._entries[stage] = Entry(key, dict(settings), versions={name: version_of(name) for name in PACKAGES})
        self._save()

    def finish(self, stage: str, outputs: Sequence[Path], result: Result) -> None:
        folder = self._path.parent
        entry = self._entries[stage]
        hashes = {path: _hash(path) for path in outputs}
        entry.outputs = {str(path.relative_to(folder)): digest for path, digest in hashes.items() if digest}
        entry.result = dict(result)
        self._save()

    def _save(self) -> None:
        save_json(self._path, {"stages": {name: asdict(entry) for name, entry in self._entries.items()}})


def key_of(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Hash of what a stage depends on, by which its work is recognised."""
    described = {"stage": stage, "settings": settings, "inputs": inputs, "version": version_of("iwpo-fast")}
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def sections(config: RunConfig, *names: str) -> dict[str, Any]:
    """Whole sections of the configuration, for the settings of a stage."""
    settings = asdict(config)
    return {name: settings[name] for name in names}


def content_of(path: str) -> str:
    """Identifies the content of a data file by its hash, and of a model folder by names, sizes and times."""
    place = Path(path).expanduser()
    if place.is_file():
        return _hash(place) or ""
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
        listed = [(str(file.relative_to(place)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return path


def _hash(path: Path) -> str | None:
    """SHA-256 of a file; None if it is absent."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
