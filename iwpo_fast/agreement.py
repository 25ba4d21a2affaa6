"""Before anything is spent, the processes of a job compare what they were told and see; if it differs, all end."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from iwpo_fast.config import ModelConfig
from iwpo_fast.data.rows import Rows
from iwpo_fast.models.pretrained import model_location
from iwpo_fast.peers import Agreed
from iwpo_fast.versions import version_of
from iwpo_fast.world import World

OWN = ("device", "data.workers")
"""Settings that may differ between the processes of a job."""

PACKAGES = ("iwpo-fast", "torch", "transformers")
NOTHING: Mapping[str, str] = {}

NAMED = 5
"""Differences that a sentence names; the others are counted."""

SAMPLES, BLOCK = 16, 65536
"""A large file is known by so many blocks of so many bytes, spread over it, beside its size."""

SEEN_LATE = 10.0
"""Seconds in which a file that one machine has written must be seen by the others."""


def check_told(world: World, config: Any) -> None:
    """Compare settings and versions. All ranks call it.

    Args:
        config: the dataclass that the command was given.

    Raises:
        Agreed: they differ; on all ranks, with the same sentence.
    """
    if world.size > 1:
        settings = dict(_flat("", json.loads(json.dumps(asdict(config)))))
        versions = {f"the version of {name}": version_of(name) for name in PACKAGES}
        _compare(world, told=settings | versions)


def check_seen(world: World, model: ModelConfig, files: Mapping[str, Path | None]) -> None:
    """Compare the model's files, and others, such as the newest checkpoint. All ranks call it.

    Args:
        files: by what they are called in messages; None for one that is not there.

    Raises:
        Agreed: they differ.
    """
    if world.size > 1:
        seen = {"the model": _digest_of_model(model)}
        seen |= {name: "absent" if path is None else _digest([path]) for name, path in files.items()}
        _compare(world, seen=seen)


def check_rows(world: World, rows: Iterable[Rows | None]) -> None:
    """Compare the data that the processes have read. All ranks call it.

    Raises:
        Agreed: they differ.
    """
    if world.size > 1:
        _compare(world, seen={"the data": _digest_of_rows(rows)})


def check_shared(world: World, folders: Mapping[str, Path]) -> None:
    """Check that all processes see what the first writes in these folders, by their settings. All ranks call it.

    A folder that is not there yet is not made: its nearest parent that is there stands for it.

    Raises:
        Agreed: one does not.
    """
    for setting, folder in folders.items() if world.size > 1 else ():
        probe, levels = _probe(folder) if world.is_main else (None, 0)
        name, levels = world.from_main((probe.name if probe else "", levels))
        place = [folder.absolute(), *folder.absolute().parents]
        sees = levels < len(place) and _appears(place[levels] / name)
        blind = [rank for rank, seen in enumerate(world.gathered(sees)) if not seen]
        if probe is not None:
            probe.unlink()
        if blind:
            raise Agreed(
                f"rank {blind[0]} does not see what rank 0 writes in {setting} {folder}: put it on a file system that "
                "all machines of the job share, and give its path from the root."
            )


def _compare(world: World, *, told: Mapping[str, str] = NOTHING, seen: Mapping[str, str] = NOTHING) -> None:
    """Raise Agreed if the ranks have other values; those of `told` are shown, those of `seen` are digests."""
    everyone = world.gathered({**told, **seen})
    names = dict.fromkeys(name for of_rank in everyone for name in of_rank)
    # A group that one rank has and another leaves out differs as a whole.
    whole = [name for name in names if not any(name.startswith(f"{group}.") for group in names)]
    found = [_difference(name, [_shown(of_rank, name) for of_rank in everyone], name in seen) for name in whole]
    if differences := [difference for difference in found if difference]:
        left = f" and {len(differences) - NAMED} more" if len(differences) > NAMED else ""
        raise Agreed(
            f"the processes of this job do not agree: {'; '.join(differences[:NAMED])}{left}: start all of them with "
            "the same settings, packages and files."
        )


def _shown(of_rank: Mapping[str, str], name: str) -> str:
    group = any(other.startswith(f"{name}.") for other in of_rank)
    return of_rank.get(name, "a group of settings" if group else "nothing")


def _difference(name: str, values: list[str], is_digest: bool) -> str:
    """The first rank whose value is not that of rank 0, in words; empty if there is none."""
    other = next((rank for rank, value in enumerate(values) if value != values[0]), 0)
    if not other:
        return ""
    if is_digest:
        return f"{name} is another on rank {other} than on rank 0"
    return f"{name} is {values[0]} on rank 0 and {values[other]} on rank {other}"


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Settings by their names, as JSON."""
    if prefix in OWN:
        return
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, json.dumps(value)


def _digest_of_model(model: ModelConfig) -> str:
    """Of its files, where they are on this machine already."""
    folder = Path(model_location(model.path))
    if not folder.is_dir():
        cached = (
            try_to_load_from_cache(model.path, "config.json", revision=model.revision) if "/" in model.path else None
        )
        if not isinstance(cached, str):
            return "not here"
        folder = Path(cached).parent
    return _digest(path for path in sorted(folder.iterdir()) if path.is_file())


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            for sample in range(SAMPLES if size > SAMPLES * BLOCK else 1):
                file.seek(sample * (size - BLOCK) // (SAMPLES - 1) if size > SAMPLES * BLOCK else 0)
                digest.update(file.read(BLOCK if size > SAMPLES * BLOCK else -1))
    return digest.hexdigest()


def _digest_of_rows(parts: Iterable[Rows | None]) -> str:
    digest = hashlib.sha256()
    for rows in parts:
        for text in rows.texts() if rows is not None else ():
            digest.update(f"{len(text)} {text}".encode(errors="surrogatepass"))
        for name, values in sorted(rows.columns.items()) if rows is not None else ():
            digest.update(name.encode() + values.tobytes())
        if rows is not None and rows.present is not None:
            digest.update(rows.present.tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def _probe(folder: Path) -> tuple[Path, int]:
    """A new file in the nearest folder that is there, and how many levels above `folder` that is."""
    places = [folder.absolute(), *folder.absolute().parents]
    levels = next(level for level, place in enumerate(places) if place.is_dir())
    probe = places[levels] / f".{uuid.uuid4().hex}.tmp"
    probe.touch()
    return probe, levels


def _appears(path: Path) -> bool:
    """Whether a file is there soon: file systems of a network may be late."""
    deadline = time.monotonic() + SEEN_LATE
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
