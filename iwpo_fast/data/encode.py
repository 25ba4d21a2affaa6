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
    """Encodes lists of strings, the fast way where the tokenizer has a Rust core.

    Special tokens that the tokenizer would add behind a text are left away: a prompt goes on, and completions end
    as `add_eos` says. Those before a text come first even if the text begins with them already.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, special_tokens: bool) -> None:
        self.tokenizer = tokenizer
        # These calls also take back any padding and truncation that earlier users set in the Rust core.
        whole, bare = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (special_tokens, False))
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.before: Ids = whole[:start]

    def __call__(self, texts: list[str]) -> list[Ids]:
        ids = self._encode(texts)
        n = len(self.before)
        return [row if row[:n] == self.before else self.before + row for row in ids] if n else ids

    def _encode(self, texts: list[str]) -> list[Ids]:
        if not self.tokenizer.is_fast:
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        core = self.tokenizer.backend_tokenizer
        return [encoding.ids for encoding in core.encode_batch_fast(texts, add_special_tokens=False)]
