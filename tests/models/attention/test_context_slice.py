"""The slices of a context group: even, complete, and with the attention of whole sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from flash_stand_ins import install, version_2
from torch import Tensor

from iwpo_fast.context_group import ContextGroup
from iwpo_fast.data.batch import FlatBatch, flat_batch
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models.attention import AttentionMetadata, Options, attend
from iwpo_fast.models.attention.context_slice import ContextSlice, parts_of

NO_GROUP: Any = None

REQUESTS = {"all": Options(0.3), "window": Options(0.3, window=3), "softcap": Options(0.3, softcap=0.7)}

ABILITIES = [
    (backend, name)
    for backend in ("flash_attn_2", "sdpa_by_length", "eager_by_length")
    for name in REQUESTS
    if (backend, name) != ("sdpa_by_length", "softcap")
]


@dataclass(frozen=True)
class OneProcess(ContextGroup):
    """A group whose other processes are played by this one: what all have is there already."""

    whole: Tensor | None = None

    def gathered(self, values: Tensor) -> Tensor:
        assert self.whole is not None
        width = len(values)
        assert torch.equal(values, self.whole[self.rank * width : (self.rank + 1) * width])
        return self.whole


def batch_of(prompts: tuple[int, ...], chosen: tuple[int, ...], rejected: tuple[int, ...]) -> FlatBatch:
    """Pairs of these lengths; prompts of one length are equal."""
    parts = (Ragged.from_rows([np.arange(n) for n in lengths]) for lengths in (prompts, chosen, rejected))
    return flat_batch(Pairs(*parts, weight=np.ones(len(prompts))), np.arange(len(prompts)))


BATCHES = {
    "uneven": batch_of((9, 2, 9), (1, 14, 6), (5, 1, 11)),
    "shorter than the group": batch_of((1,), (1,), (2,)),
    "long": batch_of((40,), (3,), (17,)),
}


def slices_of(batch: FlatBatch, ranks: int, backend: str, *, shared: bool) -> list[ContextSlice]:
    return [ContextSlice.of(batch, backend, OneProcess(rank, ranks, NO_GROUP), shared=shared) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_parts_cover_each_sequence_once_and_no_rank_has_more_than_one_token_more(ranks) -> None:
    rng = np.random.default_rng(ranks)
    lengths = rng.integers(0, 40, 25)
    starts = lengths.cumsum() - lengths
    parts = parts_of(lengths, ranks)
    covered = np.concatenate(
        [
            np.arange(begin, begin + count)
            for begins, counts in zip(parts.begins(starts), parts, strict=True)
            for begin, count in zip(begins.ravel(), counts.ravel(), strict=True)
        ]
    )
    assert np.array_equal(np.sort(covered), np.arange(lengths.sum()))
    per_rank = (parts.early + parts.late).sum(1)
    assert per_rank.max() - per_rank.min() <= 1


def test_short_answers_to_long_prompts_fall_to_all_ranks() -> None:
    batch = batch_of((3000, 3008, 3016, 3024), (20,) * 4, (30,) * 4)
    served = [len(part.served) for part in slices_of(batch, 4, "varlen", shared=False)]
    assert served == 4 * [20 + 30]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_have_even_attention_whatever_the_lengths_of_a_batch(ranks, shared) -> None:
    """In pairs of queries and keys, of four sequences of 5,777 to 31,200 tokens."""
    batch = batch_of((30_000, 5_000), (1_200, 9_000), (300, 777))
    pairs = []
    for part in slices_of(batch, ranks, "varlen", shared=shared):
        of_queries, of_keys = (x.diff().double() for x in (part.attention.cu_queries, part.attention.cu_seqlens))
        pairs.append(float((of_queries * of_keys - of_queries * (of_queries - 1) / 2).sum()))
    assert max(pairs) <= 1.0002 * np.mean(pairs)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("ranks", [2, 5])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_every_supervised_token_is_served_once_where_the_token_before_it_is(batch, ranks, shared) -> None:
    parts = slices_of(batch, ranks, "varlen", shared=shared)
    assert {len(part.tokens) for part in parts} == {max(1, -(-sum_of(batch, shared) // ranks))}
    served = torch.cat([part.served for part in parts])
    assert torch.equal(served.sort().values, torch.arange(len(batch.labels)))
    for part in parts:
        assert torch.equal(part.tokens[part.rows], batch.hidden_index[part.served])


def sum_of(batch: FlatBatch, shared: bool) -> int:
    """Tokens that the model runs."""
    return batch.tokens if shared else len(batch.expand_index)


@pytest.mark.parametrize(("backend", "asked"), ABILITIES)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("ranks", [2, 5])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_slices_attend_as_whole_sequences_do(monkeypatch, batch, ranks, shared, backend, asked) -> None:
    if backend == "flash_attn_2":
        install(monkeypatch, backend, version_2)
    torch.manual_seed(0)
    heads = [torch.randn(batch.tokens, n, 8, requires_grad=True) for n in (4, 2, 2)]
    parts = slices_of(batch, ranks, backend, shared=shared)
    both = torch.cat(heads[1:], dim=-1)
    whole = torch.cat([both[part.tokens] for part in parts])
    outputs = []
    for part in parts:
        here = OneProcess(part.attention.context.rank, ranks, NO_GROUP, whole)
        outputs.append(attend(*(x[part.tokens] for x in heads), replace(part.attention, context=here), REQUESTS[asked]))
    ours = torch.cat(outputs)[parts[0].places]
    theirs = attend(*heads, AttentionMetadata.of(batch, "eager_by_length", shared=True), REQUESTS[asked])
    assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max()
    direction = torch.randn_like(theirs)
    gradients = (torch.autograd.grad(out, heads, direction, retain_graph=True) for out in (ours, theirs))
    for mine, exact in zip(*gradients, strict=True):
        assert (mine - exact).abs().max() <= 1e-5 * exact.abs().max()
