"""The folder of a run: what is in it, and whether this configuration may go on in it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from iwpo_fast.config import TrainConfig
from iwpo_fast.files import remove_leftovers, save_json, written_aside

# Settings that change what is reported or kept, never a number of the training.
FREE = {"output_dir", "log", "checkpoint", "device", "self_test", "dry_run", "data.cache_dir"}


@dataclass(frozen=True)
class RunFolder:
    """Paths inside `output_dir`."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.json"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def _record(self) -> Path:
        return self.path / "run.json"

    @classmethod
    def check(cls, config: TrainConfig) -> RunFolder:
        """The folder of this configuration, before anything is written to it.

        A run that has not reached its first checkpoint has nothing to lose, so another configuration may replace it.

        Raises:
            ValueError: the folder holds something else, or a run of another configuration.
        """
        folder = cls(Path(config.output_dir))
        if folder.path.exists() and not folder.path.is_dir():
            raise ValueError(f"output_dir {folder.path} is a file: choose another output_dir.")
        if folder._has_progress:
            folder._refuse_other(_settings(config))
        elif folder.path.is_dir() and not folder._record.exists() and any(map(_is_foreign, folder.path.iterdir())):
            raise ValueError(
                f"output_dir {folder.path} exists and is not a run of iwpo_fast: choose another output_dir or empty it."
            )
        return folder

    def open(self, config: TrainConfig, data: str) -> None:
        """Record what runs here, or check that the run already here read the same data.

        Args:
            config: the configuration, which `check` let pass.
            data: fingerprint of the training pairs.

        Raises:
            ValueError: the run that is here read other data.
        """
        if self._has_progress:
            if json.loads(self._record.read_text(encoding="utf-8"))["data"] != data:
                raise ValueError(
                    f"{config.data.path} has changed since the run in {self.path} began: choose another output_dir."
                )
            return
        self.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        versions = {name: version(name) for name in ("iwpo-fast", "torch", "transformers", "datasets", "peft")}
        save_json(self._record, {"settings": _settings(config), "data": data, "versions": versions})
        with written_aside(self.path / "config.yaml") as aside:
            aside.write_text(yaml.safe_dump(_plain(asdict(config)), sort_keys=False), encoding="utf-8")

    @property
    def _has_progress(self) -> bool:
        return self._record.exists() and any(self.checkpoints.glob("step-*"))

    def _refuse_other(self, settings: dict[str, Any]) -> None:
        recorded = json.loads(self._record.read_text(encoding="utf-8"))["settings"]
        differing = sorted(k for k in settings.keys() | recorded.keys() if settings.get(k) != recorded.get(k))
        if differing:
            changes = ", ".join(f"{k}={settings.get(k)!r} (was {recorded.get(k)!r})" for k in differing)
            raise ValueError(
                f"output_dir {self.path} holds a run of another configuration, {changes}: "
                "restore these settings to resume it or choose another output_dir."
            )


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Everything that the numbers of a run depend on, flat, as JSON reads it back."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if prefix in FREE:
            return
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    visit("", json.loads(json.dumps(asdict(config))))
    return flat


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML can write without a tag."""
    return json.loads(json.dumps(value))


def _is_foreign(path: Path) -> bool:
    """Not what a run that was killed while it opened the folder was writing aside."""
    return not (path.name.startswith(".") and path.name.endswith(".tmp"))
