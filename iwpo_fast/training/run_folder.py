"""The folder of a run: what is in it, and whether this configuration may go on in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from iwpo_fast.config import LATER_SETTINGS, DataConfig, TrainConfig
from iwpo_fast.data import clock
from iwpo_fast.data.mix import sources_of
from iwpo_fast.data.places import Place, files_of
from iwpo_fast.files import load_record, save_record, written_aside
from iwpo_fast.later_settings import LATER
from iwpo_fast.models import reward_head
from iwpo_fast.models.pretrained import Source
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.output_folder import Inside, OutputFolder, not_ours
from iwpo_fast.versions import version_of

# Settings that change where a run computes, what it reports and what it keeps, but not what it trains.
FREE = {
    "output_dir",
    "log",
    "checkpoint.every",
    "checkpoint.keep",
    "device",
    "shard_over",
    "context_parallel",
    "self_test",
    "dry_run",
    "push_to_hub",
    "plan",
    "data.cache_dir",
    "data.processes",
    "data.workers",
    "model.trust_remote_code",
}


class RunFolder(OutputFolder):
    """Paths inside `output_dir`."""

    REPLACED = ("model",)

    checkpoints = Inside("checkpoints")
    model = Inside("model")
    metrics = Inside("metrics.jsonl")
    ledger = Inside("ledger.json")
    held_out_ledger = Inside("held_out_ledger.json")
    summary = Inside("summary.json")
    record = Inside("run.json")
    tracked = Inside("tracked_run.json")
    samples = Inside("samples")
    margins = Inside("held_out")
    votes = Inside("votes.safetensors")

    @classmethod
    def check(cls, config: TrainConfig) -> RunFolder:
        """The folder of this configuration, before anything is written to it.

        A run that has not reached its first checkpoint has nothing to lose, so another configuration may replace it.

        Raises:
            ValueError: the folder holds something else, or a run of another configuration.
        """
        folder = cls(Path(config.output_dir))
        folder.refuse_links()
        if folder.is_used:
            folder._read_record()
        if folder.has_progress:
            folder._refuse_other(config)
        return folder

    def open(self, config: TrainConfig, inputs: dict[str, str]) -> None:
        """Take the folder for this process, and record what runs here, or check that it is the run already here.

        Args:
            config: the configuration, which `check` let pass.
            inputs: fingerprint of each input, such as the training pairs.

        Raises:
            ValueError: another process is at work here, or the run that is here read other inputs.
        """
        self.take()
        if self.has_progress:
            recorded = self._read_record()["inputs"]
            for name, fingerprint in inputs.items():
                if recorded.get(name) != fingerprint:
                    raise ValueError(
                        f"the {name} has changed since the run in {self.path} began: choose another output_dir."
                    )
        else:
            self._write_record(config, inputs)
        with written_aside(self.path / "config.yaml") as aside:  # also by a resumed run, as it may be damaged
            aside.write_text(yaml.safe_dump(_as_json(config), sort_keys=False), encoding="utf-8")

    def _write_record(self, config: TrainConfig, inputs: dict[str, str]) -> None:
        threads = torch.get_num_threads()
        versions = {name: version_of(name) for name in ("iwpo-fast", "torch", "transformers", "datasets", "peft")}
        record = {"settings": settings_of(config), "inputs": inputs, "versions": versions, "threads": threads}
        moment = clock.to_keep()
        save_record(self.record, record | ({"clock": moment} if moment else {}))

    @property
    def has_progress(self) -> bool:
        """There is a checkpoint to resume from, or a result."""
        return self.record.exists() and (self.summary.exists() or any(self.checkpoints.glob("step-*")))

    @property
    def threads(self) -> int | None:
        """CPU threads that the run here began with, by which its numbers go on bitwise; None for a new run."""
        if not self.has_progress:
            return None
        threads = self._read_record().get("threads")
        return threads if isinstance(threads, int) and threads > 0 else None

    @property
    def clock(self) -> str | None:
        """What the run here saw of the clock when it began; None for a new run, and for one of before it was kept."""
        return self._read_record().get("clock") if self.has_progress else None

    def _read_record(self) -> dict[str, Any]:
        try:
            record = load_record(self.record)
            if record["versions"]["iwpo-fast"] and record["settings"] and record["inputs"]:
                return record
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise not_ours(self.path, f"run of iwpo_fast, or its {self.record.name} is damaged")

    def _refuse_other(self, config: TrainConfig) -> None:
        settings = settings_of(config)
        recorded = self._read_record()["settings"]
        differing = sorted(k for k in settings.keys() | recorded.keys() if settings.get(k) != recorded.get(k))
        if differing:
            _check_there(config)
            changes = ", ".join(f"{k}={settings.get(k)!r} (was {recorded.get(k)!r})" for k in differing)
            raise ValueError(
                f"output_dir {self.path} holds a run of another configuration, {changes}: "
                "restore these settings to resume it or choose another output_dir."
            )


def _check_there(config: TrainConfig) -> None:
    """Raise ValueError for a path that does not exist, which says more than that it is another one than before."""
    for data, _ in sources_of(config.data):
        files_of(Place(data.path, data.split, data.name))
    Source.of(config.model).check_there()


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Everything that the numbers of a run depend on, flat."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if prefix in FREE:
            return
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    visit("", _as_json(config))
    defaults = {f"data.{name}": getattr(DataConfig(path=""), name) for name in LATER_SETTINGS}
    for name, default in (defaults | LATER).items():  # a mapping stands there by its keys, and not by its own name
        if name in flat and flat[name] == default:
            del flat[name]  # as before there was a choice, so that runs of then can go on
    if Mixture.of(config.objective).reads(Reads.OWN_REWARD):  # `drdo` had a reference once, and trained no head
        flat["objective.own_reward"] = reward_head.READS
    if config.checkpoint.best is not None:  # which evaluations there are decides what is saved
        flat["log.eval_every"] = config.log.eval_every
    return flat


def _as_json(config: TrainConfig) -> Any:
    """As JSON reads it back: tuples are lists, which YAML can write without a tag."""
    return json.loads(json.dumps(asdict(config)))
