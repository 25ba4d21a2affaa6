"""The policy: a causal language model that maps a flat batch to the log-probs of its supervised tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from iwpo_fast.context_group import ContextGroup
from iwpo_fast.data import clock
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.saved_tokenizer import save_tokenizer
from iwpo_fast.models import attention, reward_head, saved_files, saving
from iwpo_fast.models.attention.context_slice import ContextSlice
from iwpo_fast.models.distributions import Distributions
from iwpo_fast.models.head import LMHead
from iwpo_fast.models.noise import EmbeddingNoise
from iwpo_fast.models.padding import pad
from iwpo_fast.models.reward_head import RewardHead
from iwpo_fast.models.rope import RopeBySequence
from iwpo_fast.models.trained import type_name
from iwpo_kernels import TokenStatistics

Layout = Literal["shared", "flat", "padded"]


class Policy(nn.Module):
    """A transformers model, perhaps with LoRA adapters, without its logits.

    Args:
        model: causal language model, or the peft model around one; its weights are the master weights.
        compute_dtype: type of the matrix products, float32 or bfloat16.
        max_length: longest sequence to come, in tokens; None where it is not known.

    Attributes:
        noise: of the embeddings while training, if any.
        reward_head: gives rewards of its own, where the objective trains them.
        context: processes with which this one computes each batch, except padded ones; None where it does so alone.
        rope: gives each sequence the rotary frequencies of its own length.
        continues_adapter: whether its adapter was there before, so that the reference has it too, as it was.
        types: how many adapters it has, one for each type of annotators, of which `use` chooses; None for one of all.
        stored_dtype: type of the weights that the model was read from, as its configuration says; else float32.
        layout: how the model runs a flat batch: `shared` as it is, each prompt once; `flat` repeats prompts, so that
            sequences are separate; `padded` makes a rectangle of them.
        layout_reason: why, in a few words.
        attention: name of the attention implementation.
        attention_reason: why, in a few words; empty where it is the first choice.
    """

    layout: Layout
    layout_reason: str
    attention: str
    attention_reason: str

    def __init__(
        self, model: PreTrainedModel | PeftModel, compute_dtype: torch.dtype, max_length: int | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = compute_dtype
        self.head = LMHead(self.causal_lm)
        self.native_attention = attention.native_attention(self.head.decoder.config)
        assert self.native_attention != attention.NAME, (
            "the model, or one with the same configuration, is a policy already"
        )
        self.is_compiled = False
        self.stored_dtype = torch.float32
        self.continues_adapter = False
        self.types: int | None = None
        self.noise: EmbeddingNoise | None = None
        self.reward_head: RewardHead | None = None
        self.context: ContextGroup | None = None
        self.rope = RopeBySequence(self.head.decoder, max_length)
        self.run_padded("not asked for anything else")

    def run_padded(self, reason: str) -> None:
        """Pad every batch from now on, and use the model's own attention."""
        self.layout, self.layout_reason = "padded", reason
        self.attention, self.attention_reason = self.native_attention, "the model's own"
        self.head.decoder.set_attn_implementation(self.native_attention)

    def run_flat(self, reason: str, backend: str, *, share_prompts: bool = False, attention_reason: str = "") -> None:
        """Run batches flat from now on, with the given backend of `attention.BACKENDS`."""
        self.layout, self.layout_reason = "shared" if share_prompts else "flat", reason
        self.attention, self.attention_reason = backend, attention_reason
        self.head.decoder.set_attn_implementation(attention.NAME)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The model, without the peft wrapper around it."""
        return cast(PreTrainedModel, self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)

    @property
    def device(self) -> torch.device:
        return self.head.linear.weight.device

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds only a part of the weights; then all must run it, and as often."""
        return isinstance(self, FSDPModule)

    @property
    def has_adapter(self) -> bool:
        return isinstance(self.model, PeftModel)

    def tokens(self, pairs: Pairs) -> np.ndarray:
        """int64 [P], tokens of each pair that the model runs; pairs that share a prompt may cost less together."""
        return pairs.tokens_laid_out if self.layout == "shared" else pairs.tokens

    def ready(self, batch: FlatBatch) -> FlatBatch:
        """The batch with the tables of this policy's attention; made on the host, nothing waits for them later."""
        if self.layout == "padded":
            return batch
        shared = self.layout == "shared"
        if self.context is not None:
            return replace(batch, tables=ContextSlice.of(batch, self.attention, self.context, shared=shared))
        return replace(batch, tables=attention.AttentionMetadata.of(batch, self.attention, shared=shared))

    @overload
    def forward(self, batch: FlatBatch) -> Tensor: ...

    @overload
    def forward(self, batch: FlatBatch, *, statistics: Literal[True]) -> TokenStatistics: ...

    def forward(self, batch: FlatBatch, *, statistics: bool = False) -> Tensor | TokenStatistics:
        """float32 [N], log-prob of each supervised token of the batch; with `statistics`, its distribution's too.

        The processes of a context all call it with the same batch, and each gets all N. Their losses are the same, and
        gradients of weights are then parts, of which the sum over processes is the gradient of that loss.
        """
        batch = batch if batch.tables is not None else self.ready(batch)
        if isinstance(batch.tables, ContextSlice):
            return self._in_slices(batch, batch.tables, statistics=statistics)
        return self._read(*self._decode(batch), batch, statistics=statistics)

    def with_states(
        self, batch: FlatBatch, at: Tensor, *, statistics: bool = False
    ) -> tuple[Tensor | TokenStatistics, Tensor]:
        """What `forward` gives, and the hidden states [K, H] at the tokens `at`, int64 [K], of the batch, in one pass.

        Not for a policy that is sharded, or computes each batch with other processes.
        """
        assert self.context is None and not self.is_sharded, "one process has a part of the states, or of the weights"
        batch = batch if batch.tables is not None else self.ready(batch)
        hidden, rows = self._decode(batch)
        return self._read(hidden, rows, batch, statistics=statistics), hidden[at if rows is None else rows[at]]

    def with_rewards(self, batch: FlatBatch, *, statistics: bool = False) -> tuple[Tensor | TokenStatistics, Tensor]:
        """What `forward` gives, and float32 [S], the policy's own reward of each sequence, read at its last token."""
        assert self.reward_head is not None, "it was given no head"
        found, states = self.with_states(batch, batch.last_index, statistics=statistics)
        return found, self.reward_head(states)

    def own_rewards(self, batch: FlatBatch) -> Tensor:
        """The rewards alone, without the LM head."""
        assert self.reward_head is not None, "it was given no head"
        return self.reward_head(self.hidden_states(batch)[batch.last_index])

    def distributions(self, batch: FlatBatch) -> Distributions:
        """Those from which the N supervised tokens of the batch come; they are computed a few at a time.

        Neither a policy that is sharded nor one that shares its batches with other processes has them.
        """
        assert not self.is_sharded and self.context is None, "nothing gathers their parts"
        batch = batch if batch.tables is not None else self.ready(batch)
        hidden, index = self._predicting(*self._decode(batch), batch)
        return self.head.distributions(hidden[index], self.compute_dtype)

    def _read(
        self, hidden: Tensor, rows: Tensor | None, batch: FlatBatch, *, statistics: bool
    ) -> Tensor | TokenStatistics:
        """What the LM head says of the supervised tokens, given what `_decode` returns."""
        hidden, index = self._predicting(hidden, rows, batch)
        read = self.head.token_statistics if statistics else self.head.token_logps
        return read(hidden, batch.labels, index, dtype=self.compute_dtype)

    def _predicting(self, hidden: Tensor, rows: Tensor | None, batch: FlatBatch) -> tuple[Tensor, Tensor]:
        """Hidden states [R, H], and the row of them [N] that predicts each supervised token, of `_decode`'s."""
        index = batch.hidden_index
        if rows is not None and self.rope.limit is not None:
            # Each in its own sequence: the hidden state of a shared prompt depends on the length of the whole.
            index = rows[batch.completion_index] - 1
        elif rows is not None and self.head.is_adapted:
            hidden = hidden[rows]  # an adapter need not see padding and repeated prompts
        elif rows is not None:
            index = rows[index]
        return hidden, index

    def _in_slices(self, batch: FlatBatch, part: ContextSlice, *, statistics: bool) -> Tensor | TokenStatistics:
        """`forward`, of which this process computes a part."""
        hidden, labels = self._decode(batch)[0], batch.labels[part.served]
        if not statistics:
            logps = self.head.token_logps(hidden, labels, part.rows, dtype=self.compute_dtype)
            return part.of_group(logps, len(batch.labels))
        found = self.head.token_statistics(hidden, labels, part.rows, dtype=self.compute_dtype)
        given = {name: values for name, values in found._asdict().items() if values is not None}
        return found._replace(**{name: part.of_group(values, len(batch.labels)) for name, values in given.items()})

    def hidden_states(self, batch: FlatBatch) -> Tensor:
        """[T, H], what the LM head reads at each token of the batch, final norm included.

        A sharded policy has its head gathered from then on, until `release` is called. The processes of a context all
        call it with the same batch and get all T, to read and not to train on.
        """
        batch = batch if batch.tables is not None else self.ready(batch)
        hidden, rows = self._decode(batch)
        if self.context is not None and isinstance(batch.tables, ContextSlice):
            assert not torch.is_grad_enabled(), "each process would count the gradient of all T"
            return self.context.gathered(hidden)[batch.tables.places]
        return hidden if rows is None else hidden[rows]

    def release(self) -> None:
        """Free what `hidden_states` has gathered of a sharded policy."""
        if isinstance(self, FSDPModule):
            self.reshard()

    def _decode(self, batch: FlatBatch) -> tuple[Tensor, Tensor | None]:
        """Hidden states [R, H] of all tokens that run here, and the rows [T] of the batch's, or None for all.

        Args:
            batch: as `ready` returns it.
        """
        if self.layout == "padded":
            input_ids, mask, flat_index = pad(batch)
            # Padding has the last position of its row, so that a row's positions tell its length.
            of_rows = {} if self.rope.limit is None else {"position_ids": mask.cumsum(1) - 1}
            with self.autocast(), self._noise_over(batch):
                output = self.head.decoder(input_ids, attention_mask=mask, use_cache=False, **of_rows)
            return output.last_hidden_state.flatten(0, 1), flat_index
        lent = self.head.decoder.config._attn_implementation != attention.NAME
        assert not lent, "the model's own attention does not see where flat sequences begin"
        tables, rows, tokens, positions = batch.tables, None, batch.input_ids, batch.position_ids
        if isinstance(tables, ContextSlice):
            tokens, positions, tables = tokens[tables.tokens], positions[tables.tokens], tables.attention
        elif self.layout == "flat":
            tokens, positions, rows = tokens[batch.expand_index], positions[batch.expand_index], batch.compact_index
        inputs = {"position_ids": positions[None], "use_cache": False, attention.KWARG: tables}
        with self.autocast(), self._noise_over(batch):
            output = self.head.decoder(tokens[None], **inputs)
        return output.last_hidden_state[0], rows

    def _noise_over(self, batch: FlatBatch) -> AbstractContextManager[None]:
        """Noise on the embeddings of the batch, laid out as this policy runs it."""
        if self.noise is None:
            return nullcontext()
        assert self.context is None, "the noise of a sequence would be of other tokens on each process"
        lengths = batch.cu_seqlens.diff()
        if self.layout == "padded":
            return self.noise.over(lengths[:, None])
        assert self.layout == "flat", "the noise on a shared prompt would be of no one sequence"
        return self.noise.over(torch.repeat_interleave(lengths, lengths, output_size=len(batch.expand_index))[None])

    def autocast(self) -> AbstractContextManager[None]:
        """Matrix products in `compute_dtype`."""
        return torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32)

    @contextmanager
    def plain_attention(self) -> Iterator[PreTrainedModel | PeftModel]:
        """Yield the model with its original attention, uncompiled, for generation; not for training."""
        decoder, current = self.head.decoder, self.head.decoder.config._attn_implementation
        decoder.set_attn_implementation(self.native_attention)
        try:
            with torch.compiler.set_stance("force_eager"), self.rope.together():
                yield self.model
        finally:
            decoder.set_attn_implementation(current)

    def generate(self, **inputs: Any) -> Tensor:
        """What transformers' `generate` returns for these inputs alone, whatever the model's own settings are.

        Ranks that share a sharded policy must all call it; it then goes on until all of them are done.
        """
        model = self.causal_lm
        own, model.generation_config = model.generation_config, GenerationConfig()
        try:
            with self.plain_attention(), self.autocast():
                return cast(Callable[..., Tensor], model.generate)(**inputs, synced_gpus=self.is_sharded)
        finally:
            model.generation_config = own

    def disable_adapter(self) -> AbstractContextManager[None]:
        """Run as the base model, which is the reference of a LoRA policy."""
        assert isinstance(self.model, PeftModel), "without an adapter the reference is the initial weights"
        return self.model.disable_adapter() if self.types is None else self._without_types(self.model)

    @contextmanager
    def _without_types(self, model: PeftModel) -> Iterator[None]:
        try:
            with model.disable_adapter():
                yield
        finally:
            self._train_all_types()

    def use(self, number: int) -> None:
        """Run as the policy of a type of annotators from now on, counted from 0; the adapters of all go on training."""
        assert isinstance(self.model, PeftModel) and self.types is not None and number < self.types
        self.model.set_adapter(type_name(number))
        self._train_all_types()

    def _train_all_types(self) -> None:
        """Undo that peft freezes all adapters except the one in use."""
        for name, parameter in self.model.named_parameters():
            if saving.of_adapter(name):
                parameter.requires_grad_(True)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that are trained, by name; tied ones once."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        head = {} if self.reward_head is None else dict(self.reward_head.named_parameters(prefix=reward_head.NAME))
        return trained | head

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what reference log-probs depend on: configuration and weights of the model before training.

        It is that of the weights at its first use, so use it before they are trained. All ranks must use it.
        """
        return saving.fingerprint(self.causal_lm, with_adapter=self.continues_adapter)

    def gathered(self, *, keep: bool) -> dict[str, Tensor] | None:
        """What `save` writes of a sharded policy, on the host; None of one that is not. All ranks must call it.

        Args:
            keep: whether this rank wants it; the others get an empty dictionary.
        """
        return saving.gathered(self.model, keep) if self.is_sharded else None

    def save(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        state: dict[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        ends: Sequence[int] = (),
    ) -> None:
        """Write model or adapter, and tokenizer, so that plain transformers loads them from `folder`, and their hashes.

        Args:
            state: what `gathered` gave.
            dtype: type of what is saved; None keeps that in which it was trained.
            ends: tokens that answers end with, at which a whole model's generation then stops.
        """
        saving.save(self.model, folder, state, dtype, ends)
        save_tokenizer(tokenizer, folder)
        if self.reward_head is not None:
            self.reward_head.save(folder, {"clock": clock.moment()} if clock.shown(tokenizer) else {})
        saved_files.keep_hashes(folder)

    def saved_dtype(self, asked: Literal["base", "float32", "bfloat16"]) -> torch.dtype:
        """The type in which `CheckpointConfig.dtype` has this policy saved; an adapter has no base to be like."""
        if asked != "base":
            return {"float32": torch.float32, "bfloat16": torch.bfloat16}[asked]
        return torch.float32 if self.saves_adapter else self.stored_dtype

    @property
    def saves_adapter(self) -> bool:
        """Whether `save` writes the adapter alone."""
        return saving.saves_adapter(self.model)
