"""The record of a pipeline: which stage made which files from which inputs, so that nothing is done twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from iwpo_fast.checksums import Damaged
from iwpo_fast.config import RunConfig
from iwpo_fast.data import clock
from iwpo_fast.files import link, load_record, save_record
from iwpo_fast.later_settings import without_later
from iwpo_fast.paths import expanded
from iwpo_fast.versions import version_of

Result = dict[str, Any]
"""Numbers of a stage."""

PACKAGES = ("iwpo-fast", "torch", "transformers", "scikit-learn", "numpy")

FIELDS = {"key", "settings", "outputs", "result", "versions"}
"""What is recorded of a stage.

`key` is the hash of its settings and of everything it read; `settings` the part of the configuration that it depends
on; `outputs` the SHA-256 of each file it wrote, by path inside the folder, or None while it is at work; `result` its
numbers, such as effective sample sizes; `versions` those of the packages it ran with."""


class Manifest:
    """`manifest.json`, rewritten whole at every change.

    Attributes:
        threads: CPU threads that the pipeline began with, by which its numbers go on bitwise; None for a new one.
        clock: what chat templates saw of the clock when it began; None for a new one.

    Raises:
        ValueError: the file is there but is no manifest.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] = {}
        self.threads: int | None = None
        self.clock: str | None = None
        self.reload()

    def reload(self) -> None:
        """Read what is on disk, so that the other ranks see what rank 0 has recorded."""
        if not self._path.exists():
            return
        try:
            record = load_record(self._path)
            self._entries, self.threads = record["stages"], record.get("threads")
            self.clock = record.get("clock")
            is_valid = all(entry.keys() == FIELDS for entry in self._entries.values())
        except (ValueError, KeyError, TypeError, AttributeError):
            is_valid = False
        if not is_valid:
            raise ValueError(f"{self._path} is damaged: choose another output_dir, or empty this one to begin again.")

    def __contains__(self, stage: str) -> bool:
        """The stage is finished."""
        return self.outputs(stage) is not None

    def outputs(self, stage: str) -> dict[str, str] | None:
        """SHA-256 of each file of a stage; None unless it is finished."""
        return self._entries[stage]["outputs"] if stage in self._entries else None

    def result(self, stage: str) -> Result:
        """Numbers of a finished stage."""
        return dict(self._entries[stage]["result"])

    def about(self, stage: str) -> dict[str, Any]:
        """Settings and versions of a stage that is finished or at work; empty for one that was not begun."""
        entry = self._entries.get(stage, {})
        return {name: entry[name] for name in ("settings", "versions") if name in entry}

    def check_whole(self, path: Path) -> None:
        """Raise ValueError if a file of a finished stage is gone, and Damaged if it is not what the stage wrote."""
        digest = _files(self._entries.values()).get(str(path.relative_to(self._path.parent)))
        if digest is None or digest == (found := _hash(path)):
            return
        if found is None:
            raise ValueError(f"{path} is gone: the same iwpo run makes it again.")
        raise Damaged(path)

    def is_current(self, stage: str, key: str) -> bool:
        """The stage is finished, its settings and inputs are the same, and its files are still as it wrote them."""
        outputs = self.outputs(stage)
        if outputs is None or not self.was_started(stage, key):
            return False
        return all(_hash(self._path.parent / path) == digest for path, digest in outputs.items())

    def was_started(self, stage: str, key: str) -> bool:
        """The stage was begun with the same settings and inputs, so it can be continued."""
        return stage in self._entries and self._entries[stage]["key"] == key

    def start(self, stage: str, key: str, settings: Mapping[str, Any]) -> None:
        versions = {name: version_of(name) for name in PACKAGES}
        entry = {"key": key, "settings": dict(settings), "outputs": None, "result": {}, "versions": versions}
        self._save(stage, entry)

    def finish(self, stage: str, outputs: Sequence[Path], result: Result) -> None:
        folder = self._path.parent
        hashes = {path: _hash(path) for path in outputs}
        written = {str(path.relative_to(folder)): digest for path, digest in hashes.items() if digest}
        self._save(stage, self._entries[stage] | {"outputs": written, "result": dict(result)})

    def take_over(self, other: Manifest, stages: Sequence[str]) -> None:
        """Have the files of another pipeline's finished stages here, as links where the disk can, and its threads.

        A stage never changes a file that it wrote, so neither pipeline sees what the other does.
        """
        taken = {name: other._entries[name] for name in stages}
        before = _files(self._entries.get(name) for name in stages)
        if other.threads != self.threads or any(self._entries.get(name) != entry for name, entry in taken.items()):
            self.threads, self.clock = other.threads, other.clock
            self._entries |= taken
            self._write()
        now, folder = _files(taken.values()), self._path.parent
        for stale in before.keys() - now.keys():
            (folder / stale).unlink(missing_ok=True)
        for path, digest in now.items():
            if _hash(folder / path) != digest:
                link(other._path.parent / path, folder / path)

    def _save(self, stage: str, entry: dict[str, Any]) -> None:
        self._entries[stage] = entry
        self.threads = self.threads or torch.get_num_threads()
        self.clock = self.clock or clock.to_keep()
        self._write()

    def _write(self) -> None:
        kept = {"threads": self.threads} | ({"clock": self.clock} if self.clock else {})
        save_record(self._path, kept | {"stages": self._entries})


def key_of(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Hash of what a stage depends on, by which its work is recognised."""
    described = {"stage": stage, "settings": settings, "inputs": inputs, "version": version_of("iwpo-fast")}
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def sections(config: RunConfig, *names: str) -> dict[str, Any]:
    """Whole sections of the configuration, for the settings of a stage."""
    settings = without_later(asdict(config))
    del settings["model"]["trust_remote_code"]  # allows a stage to be done, and changes nothing that it does
    return {name: settings[name] for name in names}


def _files(entries: Iterable[dict[str, Any] | None]) -> dict[str, str]:
    """SHA-256 of all files of finished stages, by path."""
    return {path: digest for entry in entries if entry for path, digest in (entry["outputs"] or {}).items()}


def content_of(path: str) -> str:
    """Identifies the content of a data file by its hash, and of a model folder by names, sizes and times."""
    place = expanded(path)
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
