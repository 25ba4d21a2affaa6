"""Text to token ids, many rows in one call: prompt and prompt + completion of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from iwpo_fast.config import DataConfig
from iwpo_fast.data.as_chat import own_spans
from iwpo_fast.data.chat import is_trained_turn
from iwpo_fast.data.context import as_context
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.render import Renderer
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.data.seams import AS_IS, COMMON, Seam, Texts, after_common_beginning, mended
from iwpo_fast.data.turns import Spans, UnknownTurns, assistant_spans, has_marks, inside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_AT_ONCE = 256

Ids = list[int]


def encode_rows(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig, *, progress: bool = False
) -> tuple[Pairs, np.ndarray]:
    """Encode prompt, prompt + chosen and prompt + rejected, and take what follows the prompt's tokens as completion.

    Strings get the tokenizer's beginning-of-sequence token, once; a chat template writes all special tokens itself.
    Where the prompt's tokens are not the first of prompt + completion, see `iwpo_fast.data.seams`.

    Returns:
        Pairs of weight 1, not yet cut, of the rows that could be encoded; int8 [P], what was done to each of them.

    Raises:
        ValueError: a row cannot be rendered, or has a prompt without tokens.
    """
    encoder = _RowEncoder(rows, [rows.chosen, rows.rejected], tokenizer, config)
    kept, (prompt, chosen, rejected) = encoder.encode(progress=progress)
    return Pairs(prompt, chosen, rejected, np.ones(len(kept)), row=kept), np.array(encoder.seams, dtype=np.int8)


def encode_candidates(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    *,
    pairs: Pairs | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, Ragged]:
    """Encode the candidates of the rows, as `encode_rows` does chosen and rejected.

    Args:
        pairs: the rows as `encode_rows` returns them, whose prompts the candidates follow; None encodes each prompt
            with its candidate alone.

    Returns:
        int64 [k], those that could be encoded, of rows that are among the pairs; k rows, their token ids.
    """
    candidates = rows.candidates
    assert candidates is not None and len(candidates)
    owners = rows.without_candidates().take(candidates.row)
    prompts = None
    if pairs is not None:
        place = dict(zip(pairs.row.tolist(), range(len(pairs)), strict=True))
        prompts = [pairs.prompt[place[row]].tolist() if row in place else None for row in candidates.row.tolist()]
    encoder = _RowEncoder(owners, [candidates.texts], tokenizer, config, prompts)
    kept, (_, completions) = encoder.encode(progress=progress)
    return kept, completions


def encode_prompts(rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Ragged:
    """The prompts of the rows alone, with what a chat template writes to ask for an answer."""
    return _RowEncoder(rows, [], tokenizer, config).encode(progress=False)[1][0]


class _RowEncoder:
    """Encodes rows with the completions of their sides.

    Attributes:
        prompts: for each row the token ids of its prompt that answers must follow, or None for a row to leave out.
        seams: what was done to each row that could be encoded.
    """

    def __init__(
        self,
        rows: Rows,
        sides: Sequence[list[Text]],
        tokenizer: PreTrainedTokenizerBase,
        config: DataConfig,
        prompts: Sequence[Ids | None] | None = None,
    ) -> None:
        self.rows, self.sides, self.config, self.prompts = rows, sides, config, prompts
        self.render = Renderer(rows, sides, tokenizer, add_eos=config.add_eos and bool(sides))
        self.tokens = _Encoder(tokenizer, special_tokens=not rows.conversational)
        self.seams: list[int] = []

    def encode(self, *, progress: bool) -> tuple[np.ndarray, list[Ragged]]:
        """int64, the rows that could be encoded; token ids of their prompts and sides."""
        kept: list[int] = []
        parts: list[list[Ragged]] = []
        total = len(self.rows)
        with tqdm(total=total, desc="tokenising", unit="row", disable=None if progress else True) as bar:
            for start in range(0, total, ROWS_AT_ONCE):
                some = range(start, min(start + ROWS_AT_ONCE, total))
                found = self._some(some)
                kept += [row for row, _ in found]
                columns = zip(*(ids for _, ids in found), strict=True) if found else [[]] * (len(self.sides) + 1)
                parts.append([Ragged.from_rows(list(column)) for column in columns])
                bar.update(len(some))
        return np.array(kept, dtype=np.int64), [Ragged.concatenate(part) for part in zip(*parts, strict=True)]

    def _some(self, some: range) -> list[tuple[int, list[Ids | np.ndarray]]]:
        """The rows that could be encoded, each with its prompt's ids and those of its completions."""
        texts = self.render(some)
        ids = self.tokens(texts)
        n, found = len(some), []
        for i, row in enumerate(some):
            if not ids[i]:
                raise self._no_prompt(row)
            of_row = Texts(texts[i], texts[i + n :: n], ids[i], ids[i + n :: n])
            seam = self._seam(row, of_row)
            if seam is not None:
                self.seams.append(seam.how)
                found.append((row, [seam.prompt, *self._marked(row, of_row, seam)]))
        return found

    def _no_prompt(self, row: int) -> ValueError:
        return ValueError(
            f"{self.rows.where(row)} has an empty prompt, so nothing predicts the first "
            "completion token: give it a prompt, or use a tokenizer that adds a beginning-of-sequence token."
        )

    def _seam(self, row: int, texts: Texts) -> Seam | None:
        """Prompt and answers of a row apart; None for a row that is left out."""
        prompt = texts.prompt_ids if self.prompts is None else self.prompts[row]
        if prompt is None:
            return None
        n = len(prompt)
        given = self.prompts is not None
        if all(whole[:n] == prompt for whole in texts.whole_ids):
            how = COMMON if given and not texts.continues else AS_IS
            return Seam(prompt, [whole[n:] for whole in texts.whole_ids], how)
        if texts.continues:
            if self.config.on_prefix_mismatch != "split":
                return None
            own_space = self.render.chat is None or self.render.opening(row) == "continue"
            move = own_space and not (given and prompt == texts.prompt_ids)
            seam: Seam | None = mended(texts, self.tokens, self.tokens.bare, move=move)
        else:
            seam = after_common_beginning(texts)
        return None if seam is None or (given and seam.prompt != prompt) else seam

    def _marked(self, row: int, texts: Texts, seam: Seam) -> list[Ids | np.ndarray]:
        """The answers of a row, with the tokens marked as context that the assistant did not write."""
        if self.config.train_on == "all":
            return list(seam.answers)
        return [
            self._without_others(row, side, texts, seam) if self._has_others(row, side, texts, seam) else ids
            for side, ids in enumerate(seam.answers)
        ]

    def _has_others(self, row: int, side: int, texts: Texts, seam: Seam) -> bool:
        """Whether an answer may hold tokens of others: it has several turns, or marks, or begins before its own."""
        answer = self.sides[side][row]
        if isinstance(answer, str):
            return own_spans(self.rows.prompt[row], answer) is not None
        if len(answer) != 1 or not is_trained_turn(answer[0]):
            return bool(answer)
        assert self.render.chat is not None
        if has_marks(self.render.chat, self.render.arguments(row)):
            return True
        return seam.how == COMMON and not self._begins_with_the_answer(row, side, texts)

    def _begins_with_the_answer(self, row: int, side: int, texts: Texts) -> bool:
        """Whether all that stands before the assistant's turn is in what prompt and prompt + answer have in common."""
        chat = self.render.chat
        assert chat is not None
        asked = chat.render(self.rows.prompt[row], self.render.arguments(row))  # type: ignore[arg-type]
        return texts.prompt.startswith(asked) and texts.wholes[side].startswith(asked)

    def _without_others(self, row: int, side: int, texts: Texts, seam: Seam) -> np.ndarray:
        ids = np.array(seam.answers[side], dtype=np.int32)
        spans = self._assistants(row, side)
        offsets = self.tokens.offsets(texts.wholes[side][seam.start :])
        behind = [(start - seam.start, end - seam.start) for start, end in spans]
        trained = inside(behind, offsets)[len(offsets) - len(ids) :]
        return ids if trained.all() else as_context(ids, trained)

    def _assistants(self, row: int, side: int) -> Spans:
        """The characters of prompt + answer that the assistant wrote of the answer."""
        prompt, answer, chat = self.rows.prompt[row], self.sides[side][row], self.render.chat
        if chat is None:
            assert isinstance(prompt, str) and isinstance(answer, str)
            return [(len(prompt) + start, len(prompt) + end) for start, end in own_spans(prompt, answer) or []]
        conversation, arguments = self.render.conversation(row, side), self.render.arguments(row)
        try:
            return assistant_spans(chat, conversation, len(conversation) - len(answer), arguments)
        except UnknownTurns:
            raise ValueError(
                f"{self.rows.where(row)} has an answer of several turns, and the chat "
                "template does not show which of it is the assistant's: set data.chat_template to one with "
                "{% generation %} marks, or data.train_on to all."
            ) from None


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
        ids = self.bare(texts)
        n = len(self.before)
        return [row if row[:n] == self.before else self.before + row for row in ids] if n else ids

    def bare(self, texts: list[str]) -> list[Ids]:
        """Without special tokens before a text."""
        if not self.tokenizer.is_fast:
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        core = self.tokenizer.backend_tokenizer
        return [encoding.ids for encoding in core.encode_batch_fast(texts, add_special_tokens=False)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Characters of every token of a text, from the first number to before the second.

        Raises:
            ValueError: the tokenizer does not know them.
        """
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"{type(self.tokenizer).__name__} does not say which characters its tokens are, so answers of several "
                "turns cannot be told from what stands between them: set data.train_on to all, or use a fast tokenizer."
            )
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets
