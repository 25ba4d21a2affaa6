"""What all estimates of a run read: its configuration, the GPUs, the data's lengths and the model's shape."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iwpo_fast.config import CandidateConfig, LoraConfig, RunConfig, TrainConfig
from iwpo_fast.config_checks import leaves_room
from iwpo_fast.data.unique import Responses
from iwpo_fast.importance.preferred import has_several, preferred_pairs
from iwpo_fast.models.policy import Policy
from iwpo_fast.planning.counts import PairsToRun, pairs_of
from iwpo_fast.planning.gpus import GPUS, Gpu
from iwpo_fast.planning.lengths import Lengths, lengths_of, with_drawn
from iwpo_fast.planning.shape import Shape, shape_of
from iwpo_fast.planning.work import Model

GPUS_OF_A_MACHINE = 8


class Setting(NamedTuple):
    """A configuration with what is known of its run.

    Attributes:
        shards: GPUs that hold the policy together.
    """

    config: TrainConfig
    gpu: Gpu
    shards: int
    lengths: Lengths
    shape: Shape
    model: Model

    @classmethod
    def of(cls, config: TrainConfig) -> Setting:
        """Raise ValueError where neither data and model nor `plan` say what is to be run."""
        assert config.plan.on is not None
        shards = _shards(config)
        lengths = lengths_of(config, with_candidates=isinstance(config, RunConfig))
        shape = shape_of(config, lengths.tokenizer, config.model.lora)
        return cls(config, GPUS[config.plan.on], shards, lengths, shape, Model.of(shape.policy))

    @property
    def gpus(self) -> int:
        return self.config.plan.gpus

    @property
    def data_gpus(self) -> int:
        """How many micro-batches are computed at once, each by one GPU or by those of a context."""
        return self.gpus // self.config.context_parallel

    @property
    def policy(self) -> Policy:
        return self.shape.policy

    @property
    def pairs(self) -> PairsToRun:
        """The training pairs of the data, from which rewards are learnt."""
        return pairs_of(self.lengths.training)

    @property
    def trained(self) -> PairsToRun:
        """What the policy is trained on each epoch: pairs of the data, preferred ones, and samples of the reference.

        Which candidates make preferred ones is not known before there are rewards, so all are taken to be as likely.
        """
        of = self.run_once
        several = has_several(of.prompt_of)
        draws = _preferred_pairs(self.config) if several.any() else 0
        alike = np.ones(len(of))
        drawn = preferred_pairs(alike, of.prompt_of, alike, alike, draws, seed=self.config.seed)
        drawn = drawn.take(np.flatnonzero(several[drawn.chosen]))
        chosen, rejected = np.concatenate([of.chosen, drawn.chosen]), np.concatenate([of.rejected, drawn.rejected])
        pairs = PairsToRun(of, chosen, rejected)
        samples = isinstance(self.config, RunConfig) and self.config.weights.forward_kl == "samples"
        return pairs.with_singles(np.arange(len(self.lengths.training), len(of))) if samples else pairs

    @property
    def held_out(self) -> PairsToRun | None:
        return None if self.lengths.held_out is None else pairs_of(self.lengths.held_out)

    @property
    def run_once(self) -> Responses:
        """The responses to training prompts that the frozen model runs, drawn ones among them."""
        drawn = self.drawn
        if drawn is None:
            return self.lengths.training
        return with_drawn(self.lengths.training, drawn, self.drawn_tokens)

    @property
    def drawn(self) -> CandidateConfig | None:
        """What is drawn from the policy; None if nothing is."""
        asked = self.config.candidates if isinstance(self.config, RunConfig) else None
        return asked if asked is not None and asked.per_prompt else None

    @property
    def drawn_tokens(self) -> int:
        """Tokens that a drawn completion is assumed to have: as many as a response of the data, if it may."""
        mean = round(float(self.lengths.training.completions.lengths.mean()))
        return mean if self.drawn is None else min(mean, self.drawn.max_new_tokens)

    def with_adapter(self, lora: LoraConfig) -> Setting:
        """The same model under another adapter, held whole by each GPU."""
        shape = shape_of(self.config, self.lengths.tokenizer, lora)
        return self._replace(shards=1, shape=shape, model=Model.of(shape.policy))


def _preferred_pairs(config: TrainConfig) -> int:
    """Of each prompt, if it has enough responses."""
    if not isinstance(config, RunConfig) or (config.weights.preferred_pairs == "auto" and not leaves_room(config)):
        return 0
    draws = config.weights.resolved().preferred_pairs
    assert draws != "auto", "a form sets whatever is auto"
    return draws


def _shards(config: TrainConfig) -> int:
    gpus, asked = config.plan.gpus, config.shard_over
    shards = {"all": gpus, "node": min(gpus, GPUS_OF_A_MACHINE)}[asked] if isinstance(asked, str) else asked
    if gpus % shards:
        raise ValueError(
            f"shard_over is {asked} and plan.gpus is {gpus}, which cannot be split into groups of {shards}: set "
            "plan.gpus to a multiple of that, or shard_over to all."
        )
    if gpus % config.context_parallel:
        raise ValueError(
            f"context_parallel is {config.context_parallel} and plan.gpus is {gpus}, which cannot be split into groups "
            "of so many: set plan.gpus to a multiple of that."
        )
    return shards
