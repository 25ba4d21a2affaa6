"""The folder of a demo: what is in it, and whether these settings may go on in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iwpo_fast.files import remove_leftovers, save_json
from iwpo_fast.pipeline.folder import PipelineFolder


@dataclass(frozen=True)
class DemoFolder:
    """Paths inside `output_dir`. What exists is whole, for everything is written aside and renamed."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def warmup(self) -> Path:
        return self.path / "warmup"

    @property
    def dpo(self) -> Path:
        """Training run on the pairs as they are."""
        return self.path / "dpo"

    @property
    def iwpo(self) -> Path:
        """Pipeline: rewards, weights, training run."""
        return self.path / "iwpo"

    @property
    def aligned(self) -> dict[str, Path]:
        """The aligned models, by method."""
        return {"DPO": self.dpo / "model", "IWPO": PipelineFolder(self.iwpo).training / "model"}

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.md"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    def open(self, settings: dict[str, Any]) -> None:
        """Make the folder, or check that what is in it was made with the same settings.

        Raises:
            ValueError: the folder holds something else, or a demo of other settings.
        """
        record = self.path / "demo.json"
        if record.exists():
            if json.loads(record.read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
                raise ValueError(
                    f"output_dir {self.path} holds a demo of another seed or version: "
                    "delete it or choose another output_dir."
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"output_dir {self.path} exists and is not a demo: choose another output_dir.")
        else:
            save_json(record, settings)
        remove_leftovers(self.path)
