"""What a run has left in its folder, whole or with a sentence on what is damaged."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import dropwhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iwpo_fast.checksums import Damaged
from iwpo_fast.data.rows import Text, contents
from iwpo_fast.files import load_record, load_tensors
from iwpo_fast.output_folder import last_round
from iwpo_fast.paths import expanded
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.manifest import Manifest
from iwpo_fast.pipeline.stages import STAGES
from iwpo_fast.training.run_folder import RunFolder

COLUMNS = ("weight", "label_smoothing", "cluster", "score_chosen", "score_rejected", "drawn")
Row = dict[str, Any]


class Weighted(NamedTuple):
    """Columns of the pairs that were trained on, float64 [P] each, without those of the scores' ensemble.

    Attributes:
        label_smoothing: probability that the label is wrong.
        gap: reward of the chosen minus that of the rejected response, in log-odds.
        drawn: 1 for pairs that nobody labelled.
    """

    weight: np.ndarray
    label_smoothing: np.ndarray
    cluster: np.ndarray
    gap: np.ndarray
    drawn: np.ndarray

    @property
    def labelled(self) -> np.ndarray:
        """int64, which pairs have a label."""
        return np.flatnonzero(self.drawn == 0)


class RunFiles:
    """Files of one pipeline; each is read when it is asked for.

    Attributes:
        folder: where everything is.
        manifest: what its stages say.

    Raises:
        ValueError: it is no folder of `iwpo run`.
    """

    def __init__(self, path: str) -> None:
        self.folder = PipelineFolder(expanded(path))
        if not self.folder.manifest.exists():
            raise _no_run(path, self.folder.path)
        self.manifest = _manifest(self.folder.manifest)

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name

    @cached_property
    def weight_column(self) -> str | None:
        """The column of weights that the data bring, as it is called there; None where they bring none."""
        path = self.folder.prepared
        self.manifest.check_whole(path)
        if "weight" not in next(_rows(path), {}):
            return None
        return self.manifest.about("prepare")["settings"]["data"]["columns"].get("weight") or "weight"

    def done(self, stage: str) -> bool:
        """The stage is finished, and those before it: what follows one that is at work again is of before that."""
        return stage in self.stages and stage not in self.unfinished

    @property
    def stages(self) -> list[str]:
        """In their order; `sample` where something was sampled."""
        return [name for name in STAGES if name != "sample" or self.manifest.about(name)]

    @property
    def unfinished(self) -> list[str]:
        """The stages that are still to do."""
        return list(dropwhile(lambda name: name in self.manifest, self.stages))

    def rewards(self) -> dict[str, Any]:
        return self._record(self.folder.reward_report)

    def weights(self) -> dict[str, Any]:
        return self._record(self.folder.weight_report)

    def arms(self) -> dict[str, Row]:
        """A row for each arm that was trained beside the run; empty where none was."""
        path = self.folder.arms_table
        rows = load_record(path) if path.exists() else {}
        if not all(
            isinstance(row, dict) and {"pairs", "accuracy", "low", "high"} <= row.keys() for row in rows.values()
        ):
            raise Damaged(path)
        return rows

    def margins(self) -> dict[str, np.ndarray]:
        """`margin`, after training, `before` and `cluster`, [P] each; empty if nothing was held out."""
        path = self.folder.margins
        self.manifest.check_whole(path)
        if not path.exists():
            return {}
        margins = load_tensors(path)
        if "before" not in margins:
            raise ValueError(f"{path} is of an earlier version, without margins before training: do iwpo run again.")
        return margins

    @cached_property
    def weighted(self) -> Weighted:
        path = self.folder.weighted
        self.manifest.check_whole(path)
        try:
            pairs = (row for row in _rows(path) if "completion" not in row)  # others are samples of the reference
            found = np.fromiter((row.get(name, 0) for row in pairs for name in COLUMNS), dtype=np.float64)
            weight, smoothing, cluster, chosen, rejected, drawn = found.reshape(-1, len(COLUMNS)).T
        except (TypeError, ValueError) as error:
            raise Damaged(path) from error
        return Weighted(weight, smoothing, cluster, chosen - rejected, drawn)

    def weighted_rows(self, numbers: Collection[int]) -> dict[int, Row]:
        """These rows of the pairs that were trained on, from 0."""
        return _picked(self.folder.weighted, numbers)

    def samples(self, most: int) -> list[Row]:
        """A completion drawn before training for each of the first prompts, with its `prompt`; empty without any."""
        path = self.folder.samples
        if not self.done("sample"):
            return []
        self.manifest.check_whole(path)
        if not path.exists():
            return []
        first: dict[int, Row] = {}
        for row in _rows(path):
            first.setdefault(row["row"], row)
            if len(first) == most:
                break
        self.manifest.check_whole(self.folder.prepared)
        prompts = _picked(self.folder.prepared, first)
        return [first[number] | {"prompt": prompts[number]["prompt"]} for number in sorted(first)]

    def metrics(self) -> list[Row]:
        """Lines that the training has logged; the last is left out while it is being written."""
        path = RunFolder(self.folder.training).metrics
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        metrics = [_parsed(path, line) for line in lines if line.endswith("\n")]
        if not all(_is_metrics(row) for row in metrics):
            raise Damaged(path)
        return metrics

    def answers(self) -> tuple[list[Row], list[Row]]:
        """What `log.samples` left, of before the first step and of the model that was saved; empty without it."""
        folder, after = RunFolder(self.folder.training).samples, self.manifest.result("train")["after"]
        return _answers(folder, 0), _answers(folder, after["step"]) if after else []

    def _record(self, path: Path) -> dict[str, Any]:
        self.manifest.check_whole(path)
        return _parsed(path, path.read_text(encoding="utf-8"))


def _is_metrics(row: Row) -> bool:
    numbers = all(value is None or isinstance(value, int | float) for value in row.values())
    return numbers and isinstance(row.get("step"), int)


def _answers(folder: Path, step: int) -> list[Row]:
    path = folder / f"step-{step:08d}.jsonl"
    rows = list(_rows(path)) if path.exists() else []
    if not all(isinstance(row.get(name), str) for row in rows for name in ("prompt", "answer")):
        raise Damaged(path)
    return rows


def text_of(text: Text) -> str:
    """A text, or messages with their roles."""
    if isinstance(text, str):
        return text.strip("\n")
    return "\n\n".join(f"[{message.get('role')}] {' '.join(contents([message]))}" for message in text)


def _no_run(given: str, path: Path) -> ValueError:
    if (path / "run.json").exists():
        return ValueError(
            f"{given} is a folder of iwpo train, and iwpo report shows one of iwpo run: what this run has done is in "
            "its summary.json and metrics.jsonl."
        )
    if (newest := last_round(path)) is not None:
        return ValueError(f"{given} holds rounds: name the folder of one of them, such as {newest}.")
    if path.is_dir():
        return ValueError(f"{given} has no manifest.json: give the output_dir of iwpo run.")
    return ValueError(f"{given} is no folder: give the output_dir of iwpo run.")


def _manifest(path: Path) -> Manifest:
    try:
        return Manifest(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged, and says which files of the run are whole: put a copy of it back, or do iwpo run "
            "again in another folder."
        ) from error


def _picked(path: Path, numbers: Collection[int]) -> dict[int, Row]:
    wanted, last = set(numbers), max(numbers, default=-1)
    found = {}
    for number, row in enumerate(_rows(path)):
        if number in wanted:
            found[number] = row
        if number >= last:
            break
    if len(found) < len(wanted):
        raise Damaged(path)
    return found


def _rows(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8") as file:
        yield from (_parsed(path, line) for line in file)


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(path) from error
    if not isinstance(found, dict):
        raise Damaged(path)
    return found
