"""Text to token ids, many rows in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.render import render
from iwpo_fast.data.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_AT_ONCE = 256

Ids = list[int]


@dataclass(frozen=True)
class Tokens:
    """Token ids of K of N rows, not yet cut: those whose prompt tokens begin both prompt + completion.

    Attributes:
        rows: int64 [K], rising, which rows these are.
        prompt, chosen, rejected: int32 ids, K rows each.
    """

    rows: np.ndarray
    prompt: Ragged
    chosen: Ragged
    rejected: Ragged

    @classmethod
    def concatenate(cls, parts: Sequence[Tokens]) -> Tokens:
        """The rows of all parts, one part after the other."""
        return cls(
            np.concatenate([part.rows for part in parts]),
            Ragged.concatenate([part.prompt for part in parts]),
            Ragged.concatenate([part.chosen for part in parts]),
            Ragged.concatenate([part.rejected for part in parts]),
        )


def encode_rows(rows: Rows, tokenizer: PreTrainedTokenizerBase, *, add_eos: bool, progress: bool = False) -> Tokens:
    """Encode prompt, prompt + chosen and prompt + rejected, and take what follows the prompt's tokens as completion.

    Strings get the tokenizer's beginning-of-sequence token, once; a chat template writes all special tokens itself.

    Raises:
        ValueError: a row cannot be rendered, or has a prompt without tokens.
    """
    encode = _Encoder(tokenizer, special_tokens=not rows.conversational)
    parts = []
    with tqdm(total=len(rows), desc="tokenising", unit="row", disable=None if progress else True) as bar:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = range(start, min(start + ROWS_AT_ONCE, len(rows)))
            prompts, chosen, rejected = render(rows, some, tokenizer, add_eos=add_eos)
            ids = encode([*prompts, *chosen, *rejected])
            n = len(some)
            _check_prompts(rows, some, ids[:n])
            parts.append(_split(some, ids[:n], ids[n : 2 * n], ids[2 * n :]))
            bar.update(n)
    return Tokens.concatenate(parts)


def _split(some: Sequence[int], prompts: list[Ids], chosen: list[Ids], rejected: list[Ids]) -> Tokens:
    lengths = [len(prompt) for prompt in prompts]
    fits = [i for i, n in enumerate(lengths) if chosen[i][:n] == prompts[i] == rejected[i][:n]]
    return Tokens(
        np.array([some[i] for i in fits], dtype=np.int64),
        Ragged.from_rows([prompts[i] for i in fits]),
        Ragged.from_rows([chosen[i][lengths[i] :] for i in fits]),
        Ragged.from_rows([rejected[i][lengths[i] :] for i in fits]),
    )


def _check_prompts(rows: Rows, some: Sequence[int], prompts: list[Ids]) -> None:
    for row, prompt in zip(some, prompts, strict=True):
        if not prompt:
            raise ValueError(
                f"In {rows.source}, row {rows.numbers[row]} has an empty prompt, so nothing predicts the first "
                "completion token: give it a prompt, or use a tokenizer that adds a beginning-of-sequence token."
            )


class _Encoder:
    """Encodes lists of strings, the fast way where the tokenizer has a Rust core."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, special_tokens: bool) -> None:
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens
        self.bos = tokenizer.bos_token_id
        # This call also takes back any padding and truncation that earlier users set in the Rust core.
        probe = tokenizer("a", add_special_tokens=special_tokens, return_special_tokens_mask=True)
        mask = probe["special_tokens_mask"]
        self.added_behind = mask[::-1].index(0) if 0 in mask else 0

    def __call__(self, texts: list[str]) -> list[Ids]:
        return [self._trimmed(ids) for ids in self._encode(texts)]

    def _encode(self, texts: list[str]) -> list[Ids]:
        if not self.tokenizer.is_fast:
            return self.tokenizer(texts, add_special_tokens=self.special_tokens)["input_ids"]
        core = self.tokenizer.backend_tokenizer
        return [encoding.ids for encoding in core.encode_batch_fast(texts, add_special_tokens=self.special_tokens)]

    def _trimmed(self, ids: Ids) -> Ids:
        """Without tokens that the tokenizer adds behind every text, and without a second beginning-of-sequence."""
        start = 1 if self.special_tokens and self.bos is not None and ids[:2] == [self.bos, self.bos] else 0
        return ids[start : len(ids) - self.added_behind] if start or self.added_behind else ids
