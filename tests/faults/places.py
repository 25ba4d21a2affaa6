"""Folders in which `iwpo train` and `iwpo run` come to their end in seconds, and what they leave there."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import yaml

COMMANDS = ("train", "run")
DISK = "disk"
"""Folder of all that a command writes, in the folder that it runs in; a small disk may stand in its place."""
OUT = f"{DISK}/out"
CACHE = f"{DISK}/cache"
PAIRS = "pairs.jsonl"
WORDS = ("red", "green", "blue", "warm", "cold", "small", "large", "quick", "slow", "calm")

RECIPE: dict[str, Any] = {
    "data": {"path": PAIRS, "max_length": 64, "eval_fraction": 0.25, "cache_dir": CACHE},
    "model": {"path": "tiny", "tiny": {"vocab_size": 300, "hidden_size": 32, "layers": 1, "heads": 2}},
    "optim": {"lr": 1e-3, "max_steps": 6, "epochs": 4, "pairs_per_step": 4, "tokens_per_batch": 512},
    "log": {"every": 1, "eval_every": 3},
    "checkpoint": {"every": 2, "keep": 2},
    "device": "cpu",
    "output_dir": OUT,
}
OF_STAGES = {"clusters": {"count": 2, "min_pairs": 4, "backend": "sklearn"}, "rewards": {"folds": 2}}


def pairs(number: int = 40) -> list[dict[str, str]]:
    draw = random.Random(0)
    rows = []
    for i in range(number):
        asked = draw.sample(WORDS, 3)
        rejected = " ".join(draw.sample(WORDS, 3))
        rows.append({"prompt": f"say {i}: {' '.join(asked)}\n", "chosen": " ".join(asked), "rejected": rejected})
    return rows


def new_place(place: Path) -> Path:
    """Make the folder, with data and a recipe for each command."""
    (place / DISK).mkdir(parents=True)
    (place / PAIRS).write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    (place / "train.yaml").write_text(yaml.safe_dump(RECIPE))
    (place / "run.yaml").write_text(yaml.safe_dump(RECIPE | OF_STAGES))
    return place


def copy_of(place: Path, to: Path) -> Path:
    return Path(shutil.copytree(place, to, symlinks=True))


def words(command: str) -> list[str]:
    """The command as it is typed in a place."""
    return [command, "--config", f"{command}.yaml"]


def results(place: Path) -> dict[str, bytes]:
    """What every file of the output holds, by its name in there; lines of metrics without the speed."""
    folder = place / OUT
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _content(path) for path in found if not path.name.endswith(".lock")}


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == "metrics.jsonl":
        return json.dumps([_without_speed(line) for line in content.splitlines()]).encode()
    if path.name == "metrics.json":  # of a checkpoint: the same lines
        return b""
    return content


def _without_speed(line: bytes) -> Any:
    try:
        return {name: value for name, value in json.loads(line).items() if not name.startswith("perf/")}
    except (ValueError, AttributeError):
        return line.hex()
