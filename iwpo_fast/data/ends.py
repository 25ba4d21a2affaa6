"""How completions end: with which tokens, and whether generation would stop there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from iwpo_fast.data.bounded import bounded
from iwpo_fast.data.chat import MARK
from iwpo_fast.data.context import token_ids
from iwpo_fast.data.ragged import Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHITE_SPACE = 4
"""Tokens of white space that may stand behind an end token, as ChatML writes a new line there."""

LEAST_SHARE = 0.01
"""Share of the completions that end with a special token, for it to be one that answers end with."""


def special_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Special tokens that a text may end with, longest first: all but those that begin, fill or stand for unknowns."""
    never = {tokenizer.bos_token, tokenizer.pad_token, tokenizer.unk_token} - {tokenizer.eos_token}
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted({*added, *tokenizer.all_special_tokens} - never, key=len, reverse=True))


def end_tokens(sides: Sequence[Ragged], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that completions end with, white space behind them apart; most frequent first."""
    special = {tokenizer.convert_tokens_to_ids(token) for token in special_ends(tokenizer)}
    last = np.concatenate([_last_tokens(side, tokenizer) for side in sides])
    found = Counter(last.tolist())
    return [token for token, n in found.most_common() if token in special and n >= LEAST_SHARE * max(1, len(last))]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template writes behind an answer; None where there is none, or no template."""
    if tokenizer.chat_template is None:
        return None
    conversation = [{"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}]
    try:
        with bounded():
            text = str(tokenizer.apply_chat_template(conversation, tokenize=False))
    except Exception:  # a template is a program, and may fail in any way; whoever uses it says so
        return None
    behind = text.rpartition(MARK)[2].lstrip()
    first = next((token for token in special_ends(tokenizer) if behind.startswith(token)), None)
    return None if first is None else cast(int, tokenizer.convert_tokens_to_ids(first))


def _last_tokens(rows: Ragged, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """int64, the last token of each row that is not white space, of the rows that have one near their end."""
    ends = rows.offsets[1:].copy()
    found: list[np.ndarray] = []
    starts = rows.offsets[:-1]
    for _ in range(WHITE_SPACE + 1):
        there = ends > starts
        starts, ends = starts[there], ends[there] - 1
        tokens = token_ids(rows.values[ends]).astype(np.int64)
        blank = np.isin(tokens, [t for t in np.unique(tokens).tolist() if not str(tokenizer.decode([t])).strip()])
        found.append(tokens[~blank])
        starts, ends = starts[blank], ends[blank]
    return np.concatenate(found)
