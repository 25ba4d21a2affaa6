"""Rewards of any texts by the head that a policy was trained with, such as the student of DRDO.

They are on the scale of what the head learnt from, and those of one prompt can be compared: differences are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import DataConfig, ModelConfig
from iwpo_fast.data.clock import clock_at
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.data.token_record import data_of
from iwpo_fast.data.tokenise import tokenise_all
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.pretrained import Source, model_location
from iwpo_fast.models.reference import as_it_is, pass_batches, run_batches
from iwpo_fast.models.reward_head import RewardHead, has_reward_head
from iwpo_fast.models.trained import base_of, is_adapter, read_tokenizer, source_of
from iwpo_fast.rewards.blocks import Ints
from iwpo_fast.rewards.text_rows import rows_of_texts
from iwpo_fast.world import World

Float64s = NDArray[np.float64]

TOKENS_PER_BATCH = 16384


@dataclass(frozen=True)
class OwnReward:
    """A policy and its reward head, on a device.

    Attributes:
        data: how texts become tokens, as where the head was trained.
        tokens_per_batch: tokens that one batch may hold.
        clock: what chat templates see of the clock; None for now.
    """

    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    world: World
    data: DataConfig
    tokens_per_batch: int
    clock: str | None

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str = "auto",
        tokens_per_batch: int = TOKENS_PER_BATCH,
        setting: str = "model",
        trust_remote_code: bool = False,
    ) -> Self:
        """Read a model that was trained with a reward head, or an adapter and its base.

        Args:
            model: the folder of the model, or of its run.
            setting: what names it, for messages.
            trust_remote_code: whether code that the model brings may run.

        Raises:
            ValueError: it has no reward head, or cannot be read.
        """
        source = source_of(str(model), setting, trust_remote_code=trust_remote_code)
        folder = Path(model_location(source.path))
        if not has_reward_head(folder):
            raise ValueError(
                f"{setting} {model} has no reward head: give a model that was trained with the objective drdo."
            )
        head = RewardHead.load(folder)
        data, world = data_of(head.tokens), World.start(device)
        tokenizer = read_tokenizer(source)
        settings = _settings(source)
        policy = load_policy(settings, tokenizer, world, seed=0, max_length=data.max_length)
        policy.reward_head = head.to(policy.device)
        return cls(policy, tokenizer, world, data, tokens_per_batch, head.tokens.get("clock"))

    def score(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Float64s:
        """float64 [n], rewards of n completions, each to its prompt; NaN for what is too long.

        Args:
            prompts, completions: n strings each, or n lists of messages each.

        Raises:
            ValueError: texts do not fit one another or the tokenizer, or none can be scored.
        """
        with TemporaryDirectory() as cache:
            return np.asarray(self.score_rows(rows_of_texts(prompts, completions), cache)[:, 0])

    def score_rows(self, rows: Rows, cache_dir: str, together: Ints | None = None, **policies: Any) -> Float64s:
        """float64 [N, 2], rewards of the two completions of every row; NaN for what is too long.

        Args:
            cache_dir: where token ids are kept.
            together: [N] int64, rows of equal numbers are cut to one prompt, where they are too long; None cuts each
                row by itself.
            policies: settings of the data that say what becomes of texts that do not fit the tokenizer.

        Raises:
            ValueError: as of `score`.
        """
        with clock_at(self.clock):
            pairs, fits = tokenise_all(
                rows, self.tokenizer, replace(self.data, cache_dir=cache_dir, **policies), together
            )
        responses = Responses.of(pairs)
        rewards = self._of(responses)
        found = np.full((len(rows), 2), np.nan)
        of_pairs = np.stack([rewards[responses.chosen], rewards[responses.rejected]], axis=1)
        found[pairs.row] = np.where(fits, of_pairs, np.nan)
        return found

    def _of(self, responses: Responses) -> Float64s:
        """float64 [C]."""
        rewards = np.empty(len(responses))
        batches = pass_batches(self.policy, responses, self.tokens_per_batch, self.world)[0]
        with as_it_is(self.policy):
            for rows, batch in run_batches(self.policy, responses, batches, self.world):
                rewards[rows] = self.policy.own_rewards(batch).double().cpu().numpy()
        return rewards


def _settings(source: Source) -> ModelConfig:
    """Of the model as it was trained."""
    trusted = source.trust_remote_code
    if not is_adapter(source):
        return ModelConfig(path=source.path, trust_remote_code=trusted)
    return ModelConfig(path=base_of(source).path, adapter=source.path, trust_remote_code=trusted)
