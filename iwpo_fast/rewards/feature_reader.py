"""From texts to the features that a reward model reads, by the language model that it was learnt on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig
from iwpo_fast.data.clock import clock_at
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.token_record import data_of
from iwpo_fast.data.tokenise import tokenise_all
from iwpo_fast.models import Policy, load_policy, load_tokenizer
from iwpo_fast.models.pretrained import model_location
from iwpo_fast.rewards.blocks import Ints
from iwpo_fast.rewards.features import pair_features
from iwpo_fast.rewards.pair_table import PairFeatures
from iwpo_fast.rewards.reward_model_files import adapters_in, damage
from iwpo_fast.rewards.tuned_features import TunedFeatures
from iwpo_fast.world import World

Record = dict[str, Any]


@dataclass(frozen=True)
class FeatureReader:
    """A language model on a device, with the recipe by which it makes features of texts.

    Attributes:
        data: how texts become tokens, and where features are kept, `cache_dir`.
        tokens_per_batch: tokens that one batch may hold.
        clock: what chat templates see of the clock, as when the reward model was learnt; None for now.
        adapters: folder of each fold's; empty where the language model was not tuned.
    """

    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    world: World
    data: DataConfig
    tokens_per_batch: int
    clock: str | None = None
    adapters: Sequence[Path] = ()

    @classmethod
    def load(
        cls, record: Record, world: World, language_model: str | None = None, *, trust_remote_code: bool = False
    ) -> Self:
        """Load the language model of a reward model, by its record.

        Args:
            language_model: folder or hub id, where it is no longer where the record says.
            trust_remote_code: whether code that it brings may run; the record has no say in it.

        Raises:
            ValueError: it is absent, or another one.
        """
        with damage(Path(record["folder"])):
            settings = model_settings(record, language_model, trust_remote_code=trust_remote_code)
            data = data_of(record["tokens"])
            budget, seed = record["tokens_per_batch"], record["seed"]
            adapters = adapters_in(Path(record["folder"]), record)
        tokenizer = tokenizer_of(record, settings)
        policy = load_policy(settings, tokenizer, world, seed=seed, max_length=data.max_length)
        _check_same(record, policy, settings.path)
        policy.eval()
        return cls(policy, tokenizer, world, data, budget, record["tokens"].get("clock"), adapters)

    def with_options(
        self, tokens_per_batch: int | None, cache_dir: str, on_prefix_mismatch: Any = None, on_text_left_out: Any = None
    ) -> Self:
        """The same with other options; None leaves one as it was for the pairs that were learnt from."""
        policies = {"on_prefix_mismatch": on_prefix_mismatch, "on_text_left_out": on_text_left_out}
        chosen = {name: policy for name, policy in policies.items() if policy is not None}
        data = replace(self.data, cache_dir=cache_dir, **chosen)
        return replace(self, data=data, tokens_per_batch=tokens_per_batch or self.tokens_per_batch)

    def features(self, rows: Rows, together: Ints | None = None) -> tuple[PairFeatures, Ints, NDArray[np.bool_]]:
        """Features of the rows that can be scored; int64 [P], which rows these are; bool [P, 2], which of their two
        completions are there.

        Args:
            together: as of `tokenise_all`.

        Raises:
            ValueError: a row does not fit the tokenizer, or none can be scored.
        """
        with clock_at(self.clock):
            pairs, fits = tokenise_all(rows, self.tokenizer, self.data, together)
        features = pair_features(
            self.policy,
            pairs,
            self.world,
            Path(str(self.data.cache_dir)),
            tokens_per_batch=self.tokens_per_batch,
        )
        if self.adapters:
            tuned = TunedFeatures(self.policy, pairs, self.world, self.adapters, self.tokens_per_batch)
            features = replace(features, tuned=tuned)
        return features, np.asarray(pairs.row), fits


def model_settings(
    record: Record, language_model: str | None = None, *, trust_remote_code: bool = False
) -> ModelConfig:
    """Settings by which the language model of a reward model is loaded.

    A model that lay in the `output_dir` of the run is found beside the reward model, wherever that has been moved to.
    """
    given = dict(record["language_model"]["settings"])
    lora, inside = given.pop("lora"), given.pop("inside")
    path = language_model or given.pop("path")
    if inside and language_model is None:
        path = os.path.normpath(Path(record["folder"]) / path)
    given = {name: value for name, value in given.items() if name not in ("path", "trust_remote_code")}
    lora = None if lora is None else LoraConfig(**lora)
    return ModelConfig(path=path, lora=lora, trust_remote_code=trust_remote_code, **given)


def tokenizer_of(record: Record, settings: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the language model, with the chat template that the reward model was learnt with.

    Raises:
        ValueError: the language model is not there.
    """
    where = model_location(settings.path)
    try:
        tokenizer = load_tokenizer(settings, ())
    except ValueError as error:
        raise ValueError(
            f"The reward model in {record['folder']} reads features of the language model {where}, which cannot be "
            "loaded: put it there again, or name its folder or hub id by --language_model of iwpo score."
        ) from error
    if record["tokens"]["chat_template"] is not None:
        tokenizer.chat_template = record["tokens"]["chat_template"]
    return tokenizer


def describe_policy(policy: Policy) -> dict[str, Any]:
    """What the features of a policy depend on, beside its settings."""
    return {
        "fingerprint": policy.fingerprint,
        "hidden_size": policy.head.linear.weight.shape[1],
        "layout": policy.layout,
        "attention": policy.attention,
        "precision": str(policy.compute_dtype).removeprefix("torch."),
        "device": policy.device.type,
    }


def _check_same(record: Record, policy: Policy, path: str) -> None:
    """Raise ValueError unless this is the language model that the reward model was learnt on."""
    learnt, given = record["language_model"], describe_policy(policy)
    where = f"The reward model in {record['folder']} was learnt on"
    if given["hidden_size"] != learnt["hidden_size"]:
        raise ValueError(
            f"{where} hidden states of size {learnt['hidden_size']}, and {path} has {given['hidden_size']}: give the "
            "language model that it was learnt on."
        )
    if given["fingerprint"] == learnt["fingerprint"]:
        return
    device = learnt["device"]
    elsewhere = f", or score on the kind of device that it was learnt on, {device}" if given["device"] != device else ""
    raise ValueError(
        f"{where} the language model {learnt['settings']['path']} with the fingerprint {learnt['fingerprint'][:12]}, "
        f"and {path} has {given['fingerprint'][:12]}: give that language model{elsewhere}."
    )
