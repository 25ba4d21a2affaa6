"""Where a prompt ends and its answers begin, in rows whose prompt's tokens are not the first of prompt + answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from iwpo_fast.data.turns import common_beginning

Ids = list[int]

AS_IS, MOVED, APART, COMMON = range(4)
"""What was done to a row: nothing, white space moved, tokenised apart, cut at the end of the common beginning."""


class Texts(NamedTuple):
    """A prompt and prompt + answer of each of its answers, and the token ids of these texts."""

    prompt: str
    wholes: list[str]
    prompt_ids: Ids
    whole_ids: list[Ids]

    @property
    def continues(self) -> bool:
        """Whether the text of every answer follows that of the prompt."""
        return all(whole.startswith(self.prompt) for whole in self.wholes)


class Seam(NamedTuple):
    """Token ids of a prompt and of its answers.

    Attributes:
        how: what was done, as a number of those above.
        start: character of prompt + answer at which an answer was tokenised apart; 0 where it was not.
    """

    prompt: Ids
    answers: list[Ids]
    how: int
    start: int = 0


def mended(
    texts: Texts, encode: Callable[[list[str]], list[Ids]], bare: Callable[[list[str]], list[Ids]], *, move: bool
) -> Seam:
    """A row whose tokens merge at the seam: white space at the prompt's end goes to the answers, because tokenizers
    attach it to them; where tokens merge still, prompt and answers are tokenised apart.

    Args:
        encode: tokenises texts as the row's were.
        bare: the same without special tokens before a text.
        move: whether white space is the prompt's own, and not its template's.
    """
    prompt = texts.prompt.rstrip() if move else texts.prompt
    prompt_ids = encode([prompt])[0] if prompt and prompt != texts.prompt else texts.prompt_ids
    n = len(prompt_ids)
    if all(ids[:n] == prompt_ids for ids in texts.whole_ids):
        return Seam(prompt_ids, [ids[n:] for ids in texts.whole_ids], MOVED)
    start = len(prompt or texts.prompt)
    return Seam(prompt_ids, bare([whole[start:] for whole in texts.wholes]), APART, start)


def after_common_beginning(texts: Texts) -> Seam | None:
    """A row whose template ends a prompt with something that it does not repeat before the answer, such as `<think>`:
    the prompt is what prompt and prompt + answers have in common, as in TRL. None if that is nothing."""
    n = min(common_beginning(texts.prompt_ids, ids) for ids in texts.whole_ids)
    return Seam(texts.prompt_ids[:n], [ids[n:] for ids in texts.whole_ids], COMMON) if n else None
