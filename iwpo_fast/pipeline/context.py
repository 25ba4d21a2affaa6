"""What every stage works with."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig, RunConfig, TrainConfig
from iwpo_fast.data import Pairs, read_rows, tokenise
from iwpo_fast.data.rows import Rows
from iwpo_fast.models import Policy, load_policy, load_tokenizer
from iwpo_fast.models.reference import ReferenceLogps, reference_logps
from iwpo_fast.models.sharding import Sharding
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.rewards.features import PairFeatures, pair_features
from iwpo_fast.world import World

T = TypeVar("T")


@dataclass
class Loaded:
    """What several stages of a call use, and all processes make together."""

    policy: Policy | None = None
    features: PairFeatures | None = None


@dataclass(frozen=True)
class Context:
    """The configuration, the folder and the processes of one call, and what several of its stages would load.

    Attributes:
        sharding: how the processes share the model; None where each holds the whole.
    """

    config: RunConfig
    folder: PipelineFolder
    world: World
    sharding: Sharding | None = None
    loaded: Loaded = field(default_factory=Loaded, repr=False)

    @cached_property
    def alone(self) -> Context:
        """For what the first process does while the others wait: nothing in it may wait for them."""
        return self if self.world.size == 1 else replace(self, world=replace(self.world, rank=0, size=1), sharding=None)

    @property
    def cache_dir(self) -> Path:
        return Path(self.config.data.cache_dir).expanduser() if self.config.data.cache_dir else self.folder.cache

    @property
    def model(self) -> ModelConfig:
        """The model that is trained: `tiny` exists as a folder from the first stage on."""
        model = self.config.model
        return replace(model, path=str(self.folder.tiny_model)) if model.path == "tiny" else model

    @cached_property
    def rows(self) -> Rows:
        """The prepared training rows."""
        return self._read(self.folder.prepared)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model, ())

    @cached_property
    def pairs(self) -> Pairs:
        """The prepared training pairs that fit; `pairs.row` says which of `rows` they are."""
        return self._tokenised(self.rows)

    @cached_property
    def held_out(self) -> Pairs | None:
        return self._tokenised(self._read(self.folder.held_out)) if self.folder.held_out.exists() else None

    @property
    def policy(self) -> Policy:
        """The model as it is before training."""
        if self.loaded.policy is None:
            self.loaded.policy = self._load(self.model, self.sharding)
        policy = self.loaded.policy
        assert policy.is_sharded == (self.sharding is not None), "one process cannot run what several hold together"
        return policy

    def new_policy(self, lora: LoraConfig) -> Policy:
        """The whole model with a new adapter, that of `rewards.tuning`."""
        try:
            return self._load(replace(self.model, lora=lora), None)
        except ValueError as error:
            raise ValueError(str(error).replace("model.lora", "rewards.tuning.lora", 1)) from error
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"rewards.tuning needs the whole model on one device, and {self.world.device} has no room for it: "
                "set rewards.tuning to null."
            ) from error

    def _load(self, model: ModelConfig, sharding: Sharding | None) -> Policy:
        config, device, longest = self.config, self.world.device, self.config.data.max_length
        return load_policy(
            model, self.tokenizer, seed=config.seed, device=device, max_length=longest, sharding=sharding
        )

    def release_policy(self) -> None:
        """Leave the memory to another model; whoever needs this one again loads it again. All ranks must call it."""
        self.loaded.policy = None
        gc.collect()  # modules that are sharded hold one another

    @cached_property
    def fingerprint(self) -> str:
        return self.policy.fingerprint()

    @property
    def features(self) -> PairFeatures:
        """Those of the training pairs, which all ranks make together before the first reads them alone."""
        if self.loaded.features is None:
            self.loaded.features = self.features_of(self.pairs)
        return self.loaded.features

    def features_of(self, pairs: Pairs) -> PairFeatures:
        """From the cache, or by a pass of the model."""
        return self._from_a_pass(pair_features, pairs)[0]

    def reference_of(self, pairs: Pairs) -> ReferenceLogps:
        """From the cache, where the reference stage has left them."""
        return self._from_a_pass(reference_logps, pairs)

    def _from_a_pass(self, compute: Callable[..., T], pairs: Pairs) -> T:
        return compute(
            self.policy,
            pairs,
            self.fingerprint,
            tokens_per_batch=self.config.optim.tokens_per_batch,
            cache_dir=self.cache_dir,
            world=self.world,
            workers=self.config.data.workers,
        )

    def train_config(self) -> TrainConfig:
        """The training of the weighted pairs, as `iwpo train` would run it."""
        config = self.config
        names = {"score_chosen": "scores_chosen", "score_rejected": "scores_rejected"}
        # Rewards are made for training pairs only, so an objective that reads them has no loss on held-out pairs.
        held_out = None if Mixture.of(config.objective).reads(Reads.SCORES) else self.folder.held_out
        return TrainConfig(
            data=self._data(self.folder.weighted, names, held_out),
            model=self.model,
            objective=config.objective,
            optim=config.optim,
            log=config.log,
            checkpoint=config.checkpoint,
            output_dir=str(self.folder.training),
            seed=config.seed,
            device=config.device,
            shard_over=config.shard_over,
            deterministic=config.deterministic,
            self_test=config.self_test,
        )

    def _read(self, path: Path) -> Rows:
        return read_rows(self._data(path, {})).train

    def _tokenised(self, rows: Rows) -> Pairs:
        with self.world.main_first():
            return tokenise(rows, self.tokenizer, self._data(self.folder.prepared, {}), self.world.is_main)[0]

    def _data(self, path: Path, columns: dict[str, str], held_out: Path | None = None) -> DataConfig:
        return replace(
            self.config.data,
            path=str(path),
            split="train",
            eval_path=str(held_out) if held_out is not None and held_out.exists() else None,
            eval_split=None,
            eval_fraction=0.0,
            limit=None,
            columns=columns,
            cache_dir=str(self.cache_dir),
        )
