"""Text to token ids, many rows in one call: prompt and prompt + completion of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.records import first_line
from iwpo_fast.data.rows import Message, Rows, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_AT_ONCE = 256

Ids = list[int]


def encode_rows(rows: Rows, tokenizer: PreTrainedTokenizerBase, *, add_eos: bool, progress: bool = False) -> Pairs:
    """Encode prompt, prompt + chosen and prompt + rejected, and take what follows the prompt's tokens as completion.

    Strings get the tokenizer's beginning-of-sequence token, once; a chat template writes all special tokens itself.

    Returns:
        Pairs of weight 1, not yet cut, of those rows whose prompt tokens begin both prompt + completion.

    Raises:
        ValueError: a row cannot be rendered, or has a prompt without tokens.
    """
    sides = [rows.chosen, rows.rejected]
    kept, (prompt, chosen, rejected) = _encode(rows, sides, tokenizer, add_eos=add_eos, progress=progress)
    return Pairs(prompt, chosen, rejected, np.ones(len(kept)), row=kept)


def encode_candidates(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, *, add_eos: bool, progress: bool = False
) -> tuple[np.ndarray, Ragged]:
    """Encode the candidates of the rows, as `encode_rows` does chosen and rejected.

    Returns:
        int64 [k], those whose prompt's tokens begin prompt + candidate; k rows, their token ids.
    """
    candidates = rows.candidates
    assert candidates is not None and len(candidates)
    owners = rows.without_candidates().take(candidates.row)
    kept, (_, completions) = _encode(owners, [candidates.texts], tokenizer, add_eos=add_eos, progress=progress)
    return kept, completions


def encode_prompts(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> Ragged:
    """The prompts of the rows alone, with what a chat template writes to ask for an answer."""
    return _encode(rows, [], tokenizer, add_eos=False, progress=False)[1][0]


def _encode(
    rows: Rows, sides: Sequence[list[Text]], tokenizer: PreTrainedTokenizerBase, *, add_eos: bool, progress: bool
) -> tuple[np.ndarray, list[Ragged]]:
    """The rows whose prompt tokens begin prompt + completion on all sides; token ids of their prompts and sides."""
    encode = _Encoder(tokenizer, special_tokens=not rows.conversational)
    kept: list[int] = []
    parts: list[list[Ragged]] = []
    with tqdm(total=len(rows), desc="tokenising", unit="row", disable=None if progress else True) as bar:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = range(start, min(start + ROWS_AT_ONCE, len(rows)))
            ids = encode(_render(rows, sides, some, tokenizer, add_eos))
            n = len(some)
            _check_prompts(rows, some, ids[:n])
            fits, part = _split(ids[:n], [ids[n * k : n * (k + 1)] for k in range(1, len(sides) + 1)])
            kept += [some[i] for i in fits]
            parts.append(part)
            bar.update(n)
    return np.array(kept, dtype=np.int64), [Ragged.concatenate(part) for part in zip(*parts, strict=True)]


def _split(prompts: list[Ids], sides: list[list[Ids]]) -> tuple[list[int], list[Ragged]]:
    """Which rows begin with their prompt's tokens; prompts, and completions of each side, of these."""
    lengths = [len(prompt) for prompt in prompts]
    fits = [i for i, n in enumerate(lengths) if all(side[i][:n] == prompts[i] for side in sides)]
    parts = [[prompts[i] for i in fits], *([side[i][lengths[i] :] for i in fits] for side in sides)]
    return fits, [Ragged.from_rows(part) for part in parts]


def _check_prompts(rows: Rows, some: Sequence[int], prompts: list[Ids]) -> None:
    for row, prompt in zip(some, prompts, strict=True):
        if not prompt:
            raise ValueError(
                f"In {rows.source}, row {rows.numbers[row]} has an empty prompt, so nothing predicts the first "
                "completion token: give it a prompt, or use a tokenizer that adds a beginning-of-sequence token."
            )


class _Encoder:
    """Encodes lists of strings, the fast way where the tokenizer has a Rust core.

    Special tokens that the tokenizer would add behind a text are left out, because a prompt goes on and completions end
    as `add_eos` says. Those before a text are put in front of it, unless it begins with them already.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, special_tokens: bool) -> None:
        self.tokenizer = tokenizer
        # These calls also take back any padding and truncation that earlier users set in the Rust core.
        with_special, bare = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (special_tokens, False))
        start = next(i for i in range(len(with_special)) if with_special[i : i + len(bare)] == bare)
        self.before: Ids = with_special[:start]

    def __call__(self, texts: list[str]) -> list[Ids]:
        ids = self._encode(texts)
        n = len(self.before)
        return [row if row[:n] == self.before else self.before + row for row in ids] if n else ids

    def _encode(self, texts: list[str]) -> list[Ids]:
        if not self.tokenizer.is_fast:
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        core = self.tokenizer.backend_tokenizer
        return [encoding.ids for encoding in core.encode_batch_fast(texts, add_special_tokens=False)]


def _render(
    rows: Rows, sides: Sequence[list[Text]], some: Sequence[int], tokenizer: PreTrainedTokenizerBase, add_eos: bool
) -> list[str]:
    """The prompts of the given rows, then prompts + completions, side after side; conversations by the template.

    Args:
        sides: completions of all rows, such as chosen and rejected.
        add_eos: end each plain-text completion with the end-of-sequence token, unless it already does.

    Raises:
        ValueError: a conversation does not fit the template, or there is no token to end with.
    """
    if rows.conversational:
        return _conversations(rows, sides, some, tokenizer)
    end = tokenizer.eos_token if add_eos else ""
    if end is None:
        raise ValueError("The tokenizer has no end-of-sequence token: set data.add_eos to false, or give it one.")
    return _strings(rows, sides, some, end)


def _strings(rows: Rows, sides: Any, some: Sequence[int], end: str) -> list[str]:
    prompt: Any = rows.prompt
    ended = [prompt[row] + side[row].removesuffix(end) + end for side in sides for row in some]
    return [*(prompt[row] for row in some), *ended]


def _conversations(rows: Rows, sides: Any, some: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    parts: list[list[str]] = [[] for _ in range(len(sides) + 1)]
    # One call renders the rows that give the template the same tools and keywords; mostly that is all of them.
    for _, group in groupby(some, key=lambda row: json.dumps(rows.template and rows.template[row], default=str)):
        members = list(group)
        arguments = rows.template[members[0]] if rows.template else {}
        prompts: list[Any] = [rows.prompt[row] for row in members]
        for part, completions in zip(parts, (None, *sides), strict=True):
            conversations: list[list[Message]] = [
                [*prompt, *(completions[row] if completions else [])]
                for prompt, row in zip(prompts, members, strict=True)
            ]
            ask = completions is None
            part += _apply(tokenizer, conversations, arguments | {"add_generation_prompt": ask}, rows, members)
    return [text for part in parts for text in part]


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[Message]],
    arguments: dict[str, Any],
    rows: Rows,
    members: list[int],
) -> list[str]:
    """Render; if the template refuses, find out which row it is."""
    try:
        rendered: Any = tokenizer.apply_chat_template(conversations, tokenize=False, **arguments)
        return rendered
    except Exception as error:  # a template is a program, and may fail in any way
        if len(members) == 1:
            raise ValueError(
                f"In {rows.source}, row {rows.numbers[members[0]]} does not fit the chat template "
                f"({first_line(error)}): correct its messages, or set data.chat_template."
            ) from error
        for row, conversation in zip(members, conversations, strict=True):
            _apply(tokenizer, [conversation], arguments, rows, [row])
        raise
