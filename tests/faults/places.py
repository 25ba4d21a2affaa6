"""Folders in which the commands come to their end in seconds, and what they leave there."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

DISK = "disk"
"""Folder of all that a command writes, in the folder that it runs in; a small disk may stand in its place."""
OUT = f"{DISK}/out"
CACHE = f"{DISK}/cache"
GIVEN = "given"
"""Folder of the run and the adapter that commands read."""
SAID = "said.txt"
"""What a command of `SPEAKING` has said."""
PAIRS = "pairs.jsonl"
LINES = "lines.txt"
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

BASE, ADAPTER, JUDGE = f"{GIVEN}/run/prepared/tiny", f"{GIVEN}/adapter", f"{GIVEN}/run/rewards/reward_model"
RECIPES = {
    "train": RECIPE,
    "run": RECIPE | OF_STAGES,
    "adapter": RECIPE | {"model": {"path": BASE, "lora": {"rank": 2}}, "output_dir": ADAPTER},
}

JUDGED = ("--reward_model", JUDGE, "--language_model", BASE, "--data.path", PAIRS, "--device", "cpu")
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "train": ("--config", "train.yaml"),
    "run": ("--config", "run.yaml"),
    "preview": ("--config", "train.yaml"),
    "score": (*JUDGED, "--data.cache_dir", CACHE, "--output", f"{OUT}/scored.jsonl"),
    "evaluate": (
        *(*JUDGED, "--cache_dir", CACHE, "--output", f"{OUT}/report.json", "--model", ADAPTER, "--against", BASE),
        *("--max_length", "64", "--resamples", "100", "--answers.prompts", "4", "--answers.max_new_tokens", "4"),
    ),
    "chat": ("--model", f"{GIVEN}/run", "--compare", BASE, "--max_new_tokens", "4", "--device", "cpu"),
    "merge": ("--model", ADAPTER, "--base", BASE, "--output", f"{OUT}/merged"),
    "report": ("--run", f"{GIVEN}/run", "--output", f"{OUT}/page.html"),
    "recipes": ("--copy", "demo", "--to", f"{OUT}/demo.yaml"),
}
COMMANDS = tuple(ARGUMENTS)
"""Those that read or write files; the demo is `run` with data of its own."""
SPEAKING = ("preview", "chat")
"""What they say is their result; it is kept outside the disk."""
WRITING = tuple(command for command in COMMANDS if command != "chat")
CACHING = ("train", "run", "preview", "score", "evaluate")
READING = ("score", "evaluate", "chat", "merge", "report")
"""Those that read what another command has left."""
ONCE = ("merge", "recipes")
"""Those that do not write over what they have written."""


def pairs(number: int = 40) -> list[dict[str, str]]:
    draw = random.Random(0)
    rows = []
    for i in range(number):
        asked = draw.sample(WORDS, 3)
        rejected = " ".join(draw.sample(WORDS, 3))
        rows.append({"prompt": f"say {i}: {' '.join(asked)}\n", "chosen": " ".join(asked), "rejected": rejected})
    return rows


def new_place(place: Path) -> Path:
    """Make the folder, with data and recipes."""
    (place / DISK).mkdir(parents=True)
    (place / PAIRS).write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    (place / LINES).write_text("say red\n/new\nsay blue and green\n")
    for name, recipe in RECIPES.items():
        (place / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return place


def copy_of(place: Path, to: Path) -> Path:
    return Path(shutil.copytree(place, to, symlinks=True))


def words(command: str) -> list[str]:
    """The command as it is typed in a place."""
    return [command, *ARGUMENTS[command]]


def results(place: Path) -> dict[str, bytes]:
    """What was said, and every file of the output by its name in there; lines of metrics without the speed.

    Left out are locks, and what a killed command of a single file has left aside under a hidden name.
    """
    folder = place / OUT
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    said = {SAID: (place / SAID).read_bytes()} if (place / SAID).exists() else {}
    kept = [path for path in found if not path.name.endswith(".lock") and not _is_left_aside(path.relative_to(folder))]
    return said | {str(path.relative_to(folder)): _content(path) for path in kept}


def _is_left_aside(inside: Path) -> bool:
    return re.match(r"\.(scored|report|merged|page|demo)\..*\.tmp$", inside.parts[0]) is not None


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
