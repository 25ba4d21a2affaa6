"""A reward model as a judge: that of a run, a policy with a reward head, or a sequence classifier."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from transformers import AutoTokenizer

from iwpo_fast.command_config import EvaluateConfig
from iwpo_fast.data.as_chat import for_model
from iwpo_fast.data.rows import Rows
from iwpo_fast.models.pretrained import Source, model_location, read_pretrained
from iwpo_fast.models.reward_head import has_reward_head
from iwpo_fast.paths import expanded
from iwpo_fast.rewards.classifier import WHAT, classifier_scores
from iwpo_fast.rewards.feature_reader import FeatureReader
from iwpo_fast.rewards.own_reward import OwnReward
from iwpo_fast.rewards.reward_model import RewardModel
from iwpo_fast.world import World

RECORD = "reward_model.json"


class Judged(NamedTuple):
    """Scores of the two completions of N rows.

    Attributes:
        scores: float64 [N, 2], NaN for what is too long.
        cluster: int64 [N], of the prompt, -1 without a score; None where the judge knows no clusters.
    """

    scores: np.ndarray
    cluster: np.ndarray | None


class Judge(Protocol):
    """What scores completions."""

    def __call__(self, rows: Rows) -> Judged:
        """Scores of the rows, which are texts or conversations; plain text stays as it is."""

    def in_its_form(self, rows: Rows) -> Rows:
        """Instructions and answers as conversations, if the judge has a chat template."""


def judge_of(config: EvaluateConfig, world: World, cache: Path) -> Judge:
    """The judge that `config.reward_model` names.

    Raises:
        ValueError: it cannot be read.
    """
    assert config.reward_model is not None
    if (expanded(config.reward_model) / RECORD).exists():
        return _OfRun(config, world, cache)
    if config.language_model is not None:
        raise ValueError(
            f"language_model is {config.language_model} but reward_model {config.reward_model} is no reward model of "
            "iwpo run, which alone reads one: leave it out."
        )
    if has_reward_head(Path(model_location(config.reward_model))):
        return _Policy(config, world, cache)
    return _Classifier(config, world)


class _OfRun:
    """The reward model that a run has left (MCRM)."""

    def __init__(self, config: EvaluateConfig, world: World, cache: Path) -> None:
        self._model = RewardModel.load(str(config.reward_model))
        reader = FeatureReader.load(
            self._model.record, world, config.language_model, trust_remote_code=config.trust_remote_code
        )
        self._reader = reader.with_options(config.tokens_per_batch, str(cache), "drop", "say")

    def __call__(self, rows: Rows) -> Judged:
        found = self._model.score_rows(rows, self._reader)
        return Judged(found.score, found.cluster.max(axis=1))

    def in_its_form(self, rows: Rows) -> Rows:
        return for_model(rows, self._reader.tokenizer, "auto", None)


class _Policy:
    """A policy that was trained with a reward head."""

    def __init__(self, config: EvaluateConfig, world: World, cache: Path) -> None:
        self._cache = str(cache)
        self._policy = OwnReward.load(
            str(config.reward_model),
            device=str(world.device),
            tokens_per_batch=config.tokens_per_batch,
            setting="reward_model",
            trust_remote_code=config.trust_remote_code,
        )

    def __call__(self, rows: Rows) -> Judged:
        found = self._policy.score_rows(rows, self._cache, on_prefix_mismatch="drop", on_text_left_out="say")
        return Judged(found, None)

    def in_its_form(self, rows: Rows) -> Rows:
        return for_model(rows, self._policy.tokenizer, "auto", None)


class _Classifier:
    """A sequence classifier with one label."""

    def __init__(self, config: EvaluateConfig, world: World) -> None:
        self._config, self._world = config, world

    def __call__(self, rows: Rows) -> Judged:
        first = self._scores(rows, 0)
        return Judged(np.stack([first, first if rows.rejected is rows.chosen else self._scores(rows, 1)], axis=1), None)

    def in_its_form(self, rows: Rows) -> Rows:
        source = Source(str(self._config.reward_model), "reward_model", None, self._config.trust_remote_code)
        return for_model(rows, read_pretrained(AutoTokenizer, source, WHAT), "auto", None)

    def _scores(self, rows: Rows, side: int) -> np.ndarray:
        config = self._config
        try:
            return classifier_scores(
                str(config.reward_model),
                rows.prompt,
                (rows.chosen, rows.rejected)[side],
                tokens_per_batch=config.tokens_per_batch,
                device=self._world.device,
                trust_remote_code=config.trust_remote_code,
            )
        except ValueError as error:
            said = str(error).replace("rewards.model", "reward_model")
            raise ValueError(said.replace("model.trust_remote_code", "trust_remote_code")) from error
