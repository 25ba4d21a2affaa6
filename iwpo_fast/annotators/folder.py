"""What a training on types leaves in its `output_dir`."""

from __future__ import annotations

from iwpo_fast.output_folder import ROUND, Inside, OutputFolder
from iwpo_fast.training.run_folder import RunFolder


class TypesFolder(OutputFolder):
    """Paths inside `output_dir`."""

    REPLACED = ("mixture",)

    start = Inside("start.json")
    report = Inside("annotators.json")
    mixture = Inside("mixture")

    def round(self, number: int) -> RunFolder:
        """The folder of a round, counted from 1, which is a run as any other."""
        return RunFolder(self.path / f"{ROUND}{number}")
