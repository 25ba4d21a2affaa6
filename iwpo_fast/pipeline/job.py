"""The configuration, the folder, the processes and the models that the stages share."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig, RunConfig
from iwpo_fast.data import Ledger, Pairs, read_rows, tokenise
from iwpo_fast.data.as_chat import for_model
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.unpaired import refuse_unpaired
from iwpo_fast.files import load_tensors
from iwpo_fast.models import Policy, load_policy, load_tokenizer
from iwpo_fast.models.reference import with_reference
from iwpo_fast.paths import expanded
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.origin import read_written
from iwpo_fast.rewards import PairTable
from iwpo_fast.rewards.features import PairFeatures, pair_features
from iwpo_fast.sampling.store import load_records, with_samples
from iwpo_fast.world import World

T = TypeVar("T")


@dataclass
class PipelineJob:
    """The configuration, the folder and the processes of one call.

    What a method named `load_…` returns is kept for later stages.

    Attributes:
        mesh: the processes that share the model, as `shard_mesh` says; None if each holds the whole of it.
    """

    config: RunConfig
    folder: PipelineFolder
    world: World
    mesh: DeviceMesh | None = None
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def alone(self) -> PipelineJob:
        """A copy with which rank 0 works while the others wait; nothing in it waits for them."""
        if self.world.size == 1:
            return self
        # What it loads stays in the copy: when all ranks load, the others wait until rank 0 has loaded first.
        return replace(self, world=replace(self.world, rank=0, size=1, context=None), mesh=None, _kept=dict(self._kept))

    @property
    def model(self) -> ModelConfig:
        """Settings of the model that is trained: from the first stage on, `tiny` is a folder."""
        model = self.config.model
        return replace(model, path=str(self.folder.tiny_model)) if model.path == "tiny" else model

    def data(self, path: Path) -> DataConfig:
        """Settings that read the whole of a file of the pipeline as training rows."""
        return replace(
            self.config.data,
            path=str(path),
            split="train",
            eval_path=None,
            eval_split=None,
            eval_fraction=0.0,
            limit=None,
            columns={},
            name=None,
            mix=[],
            preferred={},
            json_columns=[],
            pairs_from_candidates="best_worst",
            win_rate_temperature=None,
            as_chat=False,
            cache_dir=str(self.cache_dir()),
        )

    def load_given(self) -> tuple[Rows, Rows | None]:
        """The data as they were given, for this model: rows to train on, and rows held out."""

        def load() -> tuple[Rows, Rows | None]:
            data = self.config.data
            rows, held_out = read_rows(data, votes=self.config.scores_are_votes)
            for some in (rows, held_out):
                refuse_unpaired(some, "iwpo run")
            if data.as_chat != "auto":
                return rows, held_out
            tokenizer = load_tokenizer(self.config.model, rows.texts())
            as_asked = partial(for_model, tokenizer=tokenizer, as_chat=data.as_chat, template=data.chat_template)
            return as_asked(rows), None if held_out is None else as_asked(held_out)

        return self._once("given", load)

    def forget_given(self) -> None:
        """Free their memory, because every stage behind `prepare` reads what that has written."""
        self._kept.pop("given", None)

    def read_prepared(self) -> Rows:
        """The prepared training rows, with the candidates that the data brought."""
        return self._read(self.folder.prepared)

    def load_rows(self) -> Rows:
        """The prepared training rows, with all their candidates."""
        return self._once("rows", self._rows)

    def load_pairs(self) -> Pairs:
        """The prepared training pairs that fit; `pairs.row` says which of the rows they are. All ranks call it."""
        return self._training()[0]

    def load_ledger(self) -> Ledger:
        """What became of the prepared training pairs and their candidates. All ranks call it."""
        return self._training()[1]

    def load_held_out(self) -> Pairs | None:
        """The held-out pairs that fit, without candidates; None if nothing is held out. All ranks call it."""
        path = self.folder.held_out

        def load() -> Pairs | None:
            return self._tokenised(self._read(path).without_candidates())[0] if path.exists() else None

        return self._once("held_out", load)

    def read_weighted(self) -> Pairs:
        """The weighted pairs, as training reads them. All ranks call it."""
        return self._tokenised(self._read(self.folder.weighted))[0]

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        return self._once("tokenizer", lambda: load_tokenizer(self.model, ()))

    def load_policy(self) -> Policy:
        """The model as it is before training. All ranks call it."""
        policy = self._once("policy", lambda: self._policy(self.model, self.mesh))
        assert policy.is_sharded == (self.mesh is not None), "one process cannot run what several hold together"
        assert policy.context is self.world.context, "one process cannot run what several compute together"
        return policy

    def load_features(self) -> PairFeatures:
        """Features of the training pairs. All ranks call it."""
        return self._once("features", lambda: self.features(self.load_pairs()))

    def free(self) -> None:
        """Free the policy; it is loaded again on its next use. All ranks call it."""
        self._kept.pop("policy", None)
        gc.collect()  # because the modules of a sharded model refer to one another

    def with_adapter(self, lora: LoraConfig) -> ModelConfig:
        """Settings of the model with a new adapter, the one of `rewards.tuning`."""
        return replace(self.model, lora=lora, neftune_alpha=None)

    def new_policy(self, lora: LoraConfig) -> Policy:
        """The whole model with a new adapter, the one of `rewards.tuning`."""
        try:
            return self._policy(self.with_adapter(lora), None)
        except ValueError as error:
            raise ValueError(str(error).replace("model.lora", "rewards.tuning.lora", 1)) from error
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"rewards.tuning needs the whole model on one device, and {self.world.device} has no room for it: "
                "set rewards.tuning to null."
            ) from error

    def features(self, pairs: Pairs) -> PairFeatures:
        """Features of `pairs`, from the cache or by a pass of the model. All ranks call it."""
        return self._from_a_pass(pair_features, pairs)

    def with_reference(self, pairs: Pairs) -> Pairs:
        """`pairs` with reference log-probs, from the cache or by a pass of the model. All ranks call it."""
        return self._from_a_pass(with_reference, pairs)

    def cache_dir(self) -> Path:
        """Where tokens, log-probs and features are kept."""
        return expanded(self.config.data.cache_dir) if self.config.data.cache_dir else self.folder.cache

    def read_table(self) -> PairTable:
        """The training pairs as rows of features, from the stage `reference`."""
        return PairTable(**load_tensors(self.folder.table))

    def read_prompt_clusters(self) -> np.ndarray:
        """int64 [M]: the cluster of every prompt, from the stage `cluster`."""
        return load_tensors(self.folder.prompt_clusters)["cluster"]

    def _once(self, name: str, load: Callable[[], T]) -> T:
        if name not in self._kept:
            self._kept[name] = load()
        return self._kept[name]

    def _training(self) -> tuple[Pairs, Ledger]:
        return self._once("pairs", lambda: self._tokenised(self.load_rows()))

    def _rows(self) -> Rows:
        rows = self.read_prepared()
        return with_samples(rows, load_records(self.folder.samples)) if self.config.candidates.per_prompt else rows

    def _read(self, path: Path) -> Rows:
        return read_written(self.data(path))[0]

    def _tokenised(self, rows: Rows) -> tuple[Pairs, Ledger]:
        with self.world.main_first():
            return tokenise(rows, self.load_tokenizer(), self.data(self.folder.prepared), self.world.is_main)

    def _policy(self, model: ModelConfig, mesh: DeviceMesh | None) -> Policy:
        return load_policy(
            model,
            self.load_tokenizer(),
            self.world,
            seed=self.config.seed,
            max_length=self.config.data.max_length,
            mesh=mesh,
        )

    def _from_a_pass(self, compute: Callable[..., T], pairs: Pairs) -> T:
        return compute(
            self.load_policy(),
            pairs,
            self.world,
            self.cache_dir(),
            tokens_per_batch=self.config.optim.tokens_per_batch,
            workers=self.config.data.workers,
        )
