"""KL(π ‖ π_ref) on completions that the policy draws itself while it trains, after SPO (arXiv 2405.00747).

Every so many steps the policy answers prompts. Until the next time each step adds, for some of these completions,

    coefficient · mean over completions y of Σ_t KL(π(· | x, y_<t) ‖ π_ref(· | x, y_<t))

where each KL is over the whole vocabulary. The mean of the sum over completions that are just drawn is KL(π ‖ π_ref) of
completions, up to those that are cut. Its gradient takes the completions as given: biased, and of low variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import CandidateConfig, SampledKLConfig, TrainConfig
from iwpo_fast.data import Pairs, Rows
from iwpo_fast.data.batch import FlatBatch, flat_responses
from iwpo_fast.data.order import micro_batches
from iwpo_fast.data.pairs import hash_of
from iwpo_fast.data.prompts import encoded_prompts, read_prompts, with_room_behind
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import Policy
from iwpo_fast.models.distributions import token_kl
from iwpo_fast.models.other_reference import LiveReference
from iwpo_fast.models.reference import as_it_is
from iwpo_fast.models.saving import stop_tokens
from iwpo_fast.sampling.blocks import blocks_of, seed_of
from iwpo_fast.sampling.by_transformers import draw_block
from iwpo_fast.training.checkpoint import TrainState
from iwpo_fast.world import World

PROMPTS, ROOM = "sampled_kl.prompts", "sampled_kl.max_new_tokens"


@dataclass(frozen=True)
class SampledKL:
    """The regulariser of a training. What it has drawn is in the state of the run, and so in its checkpoints.

    Attributes:
        prompts: token ids of M different prompts, each of which is answered before any is answered again.
        ends: tokens that end a completion.
        pad: a token to fill up with.
        tokens_per_batch: token budget of a batch, of those that are drawn and of those that are trained on.
    """

    settings: SampledKLConfig
    policy: Policy
    reference: LiveReference
    prompts: Ragged
    ends: Sequence[int]
    pad: int
    world: World
    seed: int
    tokens_per_batch: int

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        policy: Policy,
        prompts: Ragged,
        tokenizer: PreTrainedTokenizerBase,
        world: World,
        ends: Sequence[int],
    ) -> SampledKL:
        """That of a training which begins from `policy`; its reference is loaded here, where it is another model.

        Args:
            prompts: as of `prompts_to_answer`.
            ends: tokens at which an answer ends, beside the tokenizer's and the model's own.

        Raises:
            ValueError: the reference cannot be read.
        """
        assert config.sampled_kl is not None, "it is asked for"
        reference = LiveReference.of(config, policy, tokenizer, world)
        all_ends = sorted({tokenizer.eos_token_id, *stop_tokens(policy.model), *ends})
        pad, budget = tokenizer.pad_token_id, config.optim.tokens_per_batch
        return cls(config.sampled_kl, policy, reference, prompts, all_ends, pad, world, config.seed, budget)

    @property
    def fingerprint(self) -> str:
        """Hash of the prompts."""
        return hash_of(self.prompts.offsets, self.prompts.values)

    def draw_if_due(self, state: TrainState) -> None:
        """Before the step that is next: have the policy answer prompts, where it is time. All ranks call it."""
        if state.step % self.settings.every == 0:
            state.drawn = self._drawn(self._prompts_of(state.step), state.step)

    def losses(self, state: TrainState) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of what the step that is next adds to its loss, micro-batch after micro-batch.

        Yields:
            [], with gradient; and float64 [n], the KL of each of its completions in nats, without.
        """
        factor = self.settings.coefficient / self.settings.per_step
        for batch in self._batches(state):
            kl = self.kl(batch)
            yield (factor * kl.sum()).float(), kl.detach()

    def kl(self, batch: FlatBatch) -> Tensor:
        """float64 [C], the sum of KL(π ‖ π_ref) over the tokens of each completion of the batch, with gradient."""
        policy = self.policy.distributions(self.policy.ready(batch).to(self.policy.device))
        with self.reference.running() as model:
            reference = model.distributions(model.ready(batch).to(model.device))
        kl = token_kl(policy, reference).double()
        return torch.segment_reduce(kl, "sum", offsets=batch.segments.to(kl.device), initial=0.0)

    def _prompts_of(self, step: int) -> Ragged:
        """The prompts that are answered before a step, in an order that depends on seed and step alone."""
        samples, there = self.settings.samples, len(self.prompts)
        first = step // self.settings.every * samples
        epochs, places = np.divmod(np.arange(first, first + samples), there)
        orders = {e: np.random.default_rng([self.seed, e, 1]).permutation(there) for e in set(epochs.tolist())}
        return self.prompts.take(np.array([orders[e][place] for e, place in zip(epochs, places, strict=True)]))

    def _drawn(self, prompts: Ragged, step: int) -> list[list[int]]:
        """A completion of each, with the token that ends it."""
        most = self.settings.max_new_tokens
        asked = CandidateConfig(per_prompt=1, max_new_tokens=most, tokens_per_batch=self.tokens_per_batch)
        mine: dict[int, list[int]] = {}
        blocks = list(enumerate(blocks_of(prompts.lengths, asked, "transformers")))
        for number, block in blocks[self.world.rank :: self.world.size]:
            some = prompts.take(block.prompt)
            seed = seed_of(seed_of(self.seed, step, some), number, some)
            drawn = draw_block(self.policy, some, asked, ends=self.ends, pad=self.pad, seed=seed, inside=as_it_is)
            # Any end will do: it is what comes before it that predicts it.
            mine |= {
                int(place): [*one.tokens, self.ends[0]] if one.ended else one.tokens
                for place, one in zip(block.prompt, drawn, strict=True)
            }
        everyones = {place: tokens for part in self.world.gathered(mine) for place, tokens in part.items()}
        return [everyones[place] for place in range(len(prompts))]

    def _batches(self, state: TrainState) -> Iterator[FlatBatch]:
        """The completions of the step that is next, those of this rank."""
        every, count = self.settings.every, self.settings.per_step
        begun = state.step // every * every
        rows = ((state.step - begun) * count + np.arange(count)) % self.settings.samples
        none = np.empty(0, dtype=np.int64)
        prompts, completions = self._prompts_of(begun), Ragged.from_rows(state.drawn)
        responses = Responses(prompts, completions, np.arange(len(completions)), none, none, none)
        tokens, ranks = prompts.lengths + completions.lengths, self.world.data_size
        dealt = micro_batches(rows, tokens, budget=self.tokens_per_batch, ranks=ranks)[self.world.data_rank]
        for some in dealt:
            if len(some):
                yield flat_responses(responses, some)


def prompts_to_answer(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase, rows: Rows, pairs: Pairs
) -> Ragged | None:
    """The different prompts that the policy answers, of the file that is named or of the pairs; None without a KL.

    Args:
        rows: what `pairs` were read as.

    Raises:
        ValueError: they cannot be read, or leave no room for an answer.
    """
    asked = config.sampled_kl
    if asked is None:
        return None
    room = asked.max_new_tokens
    if asked.prompts is None:
        return with_room_behind(pairs.prompt, tokenizer, config.data, room=room, setting=ROOM)
    read = read_prompts(asked.prompts, PROMPTS, rows)
    return encoded_prompts(read, tokenizer, config.data, room=room, setting=ROOM)
