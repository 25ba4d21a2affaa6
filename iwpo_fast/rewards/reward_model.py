"""A reward model: what was learnt from the pairs of a run, in a folder of its own that scores any texts.

The folder loads without the data that it was learnt from. Only the abstract of IWPO is public; this reward model (MCRM)
is the project's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.paths import expanded
from iwpo_fast.rewards import reward_model_files as files
from iwpo_fast.rewards.blocks import Ints
from iwpo_fast.rewards.calibration import Calibration
from iwpo_fast.rewards.clusters import Clusters
from iwpo_fast.rewards.feature_reader import FeatureReader
from iwpo_fast.rewards.head_kinds import HEADS
from iwpo_fast.rewards.learnt_rewards import Float64s, LearntRewards, Scores
from iwpo_fast.rewards.pessimism import Pessimism
from iwpo_fast.rewards.text_rows import rows_of_texts
from iwpo_fast.world import World


@dataclass(frozen=True)
class RewardModel(LearntRewards):
    """What a run has learnt, with the recipe of the features that it reads and the language model that gives them."""

    _readers: dict[Any, FeatureReader] = field(default_factory=dict, repr=False, compare=False)

    def save(self, folder: Path) -> None:
        """Write the folder aside, then give it its name."""
        arrays = {
            "clusters": vars(self.clusters),
            "heads": self.heads.arrays(),
            "calibration": self.calibration._asdict(),
            "training_prompts": {"digests": files.digests(self.training_prompts)},
        }
        record = self.record | {"heads": self.heads.kind}
        if self.pessimism is not None:
            arrays["pessimism"] = self.pessimism.arrays()
            record |= {"pessimism": self.pessimism.record()}
        files.save(folder, arrays, record, self.report)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder that a pipeline wrote, `rewards/reward_model` in its `output_dir`.

        Raises:
            ValueError: there is no reward model, it is damaged, or this version makes features in another way.
        """
        folder = expanded(folder)
        arrays, record, report = files.load(folder)
        with files.damage(folder):
            return cls(
                clusters=Clusters.of_arrays(arrays["clusters"]),
                heads=HEADS[record["heads"]].of_arrays(arrays["heads"]),
                calibration=Calibration(**arrays["calibration"]),
                training_prompts=frozenset(files.keys(arrays["training_prompts"]["digests"])),
                record=record | {"folder": str(folder.resolve())},
                report=report,
                pessimism=Pessimism.of_record(record.get("pessimism"), arrays.get("pessimism", {})),
            )

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        *,
        device: str = "auto",
        tokens_per_batch: int | None = None,
        language_model: str | None = None,
        trust_remote_code: bool = False,
    ) -> Scores:
        """Scores of n completions, each to its prompt; what is there more than once runs once.

        The language model is loaded at the first call and kept for later ones. A score depends in its last digits on
        which other texts are scored with it, because sums of floats depend on the shapes of batches.

        Args:
            prompts, completions: n strings each, or n lists of messages each.
            device: `auto`, `cpu`, `cuda`, ...
            tokens_per_batch: token budget of a batch; None takes that of the run that made the reward model.
            language_model: folder or hub id, where it is no longer where the reward model found it.
            trust_remote_code: whether code that the language model brings may run.

        Raises:
            ValueError: texts do not fit one another or the tokenizer, the language model is absent or another one, or
                heads that compare find a completion alone with its prompt.
        """
        rows = rows_of_texts(prompts, completions)
        language_model_reader = self._reader(device, language_model, trust_remote_code)
        with tempfile.TemporaryDirectory() as cache:
            reader = language_model_reader.with_options(tokens_per_batch, cache)
            return self.score_rows(rows, reader, self.together(rows)).take((slice(None), 0))

    def prefer(
        self,
        prompts: Sequence[Text],
        first: Sequence[Text],
        second: Sequence[Text],
        *,
        device: str = "auto",
        language_model: str | None = None,
        trust_remote_code: bool = False,
    ) -> Float64s:
        """[n] fp64, log-odds that the first of two completions is preferred to the second; NaN for what is too long.

        Heads that compare need no third completion to say so; of others it is the gap of two rewards. The slope is that
        of the prompt's cluster, nothing is clipped, and pessimism takes nothing off. Heads that know grades give the
        log-odds of the higher grade.

        Args:
            prompts, first, second: n strings each, or n lists of messages each; the others as of `score`.

        Raises:
            ValueError: as `score`.
        """
        left, right = rows_of_texts(prompts, first), rows_of_texts(prompts, second)
        rows = Rows(left.source, left.numbers, left.prompt, left.chosen, right.chosen)
        language_model_reader = self._reader(device, language_model, trust_remote_code)
        with tempfile.TemporaryDirectory() as cache:
            features, kept, fits = language_model_reader.with_options(None, cache).features(rows)
        found = np.full(len(rows), np.nan)
        both = fits.all(axis=1)
        found[kept[both]] = self.prefer_features(features).mean(axis=1)[both]
        return found

    def _reader(self, device: str, language_model: str | None, trusted: bool) -> FeatureReader:
        """Of the language model, which is loaded once."""
        if (device, language_model) not in self._readers:
            self._readers.clear()
            world = World.start(device)
            reader = FeatureReader.load(self.record, world, language_model, trust_remote_code=trusted)
            self._readers[device, language_model] = reader
        return self._readers[device, language_model]

    def together(self, rows: Rows) -> Ints | None:
        """[N] int64, the same for rows of one prompt, where heads compare; None where rows are by themselves."""
        if not self.compares:
            return None
        number: dict[str, int] = {}
        return np.array([number.setdefault(repr(prompt), len(number)) for prompt in rows.prompt], dtype=np.int64)

    def score_rows(self, rows: Rows, reader: FeatureReader, together: Ints | None = None) -> Scores:
        """Scores [N, 2] of the two completions of every row.

        Args:
            together: [N] int64, rows of equal numbers are cut to one prompt, where they are too long; None cuts each
                row by itself.
        """
        features, kept, fits = reader.features(rows, together)
        found = self.score_features(features)
        sides = np.stack([features.table.chosen, features.table.rejected], axis=1)
        scores = Scores(*(_unscored((len(rows), *values[sides].shape[1:]), values) for values in found))
        row, side = kept[np.nonzero(fits)[0]], np.nonzero(fits)[1]
        for all_rows, values in zip(scores, found, strict=True):
            all_rows[row, side] = values[sides[fits]]
        return scores


def _unscored(shape: tuple[int, ...], like: np.ndarray) -> np.ndarray:
    return np.full(shape, -1 if like.dtype.kind == "i" else np.nan, dtype=like.dtype)
