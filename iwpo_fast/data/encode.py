"""Text to token ids, many rows in one call: prompt and prompt + completion of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data.as_chat import own_spans
from iwpo_fast.data.chat import is_trained_turn
from iwpo_fast.data.context import as_context
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.processes import in_order, processes_for
from iwpo_fast.data.ragged import Ragged, RaggedWriter
from iwpo_fast.data.render import Renderer
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.data.seams import AS_IS, COMMON, Seam, Texts, after_common_beginning, mended
from iwpo_fast.data.turns import Spans, UnknownTurns, assistant_spans, has_marks, inside
from iwpo_fast.progress import progress as bar_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_AT_ONCE = 256

Ids = list[int]


class Encoded(NamedTuple):
    """Some rows as token ids.

    Attributes:
        rows: int64 [P], those that could be encoded.
        seams: int8 [P], what was done to each of them.
        parts: token ids of their prompts, and of each of their sides.
    """

    rows: np.ndarray
    seams: np.ndarray
    parts: list[Ragged]


def encode_rows(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig, *, progress: bool = False
) -> tuple[Pairs, np.ndarray]:
    """Encode prompt, prompt + chosen and prompt + rejected, and take what follows the prompt's tokens as completion.

    Strings get the tokenizer's beginning-of-sequence token, once; a chat template writes all special tokens itself.
    Where the prompt's tokens are not the first of prompt + completion, see `iwpo_fast.data.seams`. A completion that a
    row does not have has no tokens.

    Returns:
        Pairs of weight 1, not yet cut, of the rows that could be encoded; int8 [P], what was done to each of them.

    Raises:
        ValueError: a row cannot be rendered, or has a prompt without tokens.
    """
    alone = rows.present is not None and not rows.present.all(1).any()  # then the two sides are one text
    sides = [rows.chosen] if alone else [rows.chosen, rows.rejected]
    kept, seams, (prompt, *completions) = _RowEncoder(rows, sides, tokenizer, config).encode(progress=progress)
    pairs = Pairs(prompt, completions[0], completions[-1], np.ones(len(kept)), row=kept)
    return pairs.only(None if rows.present is None else rows.present[kept]), seams


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
    prompt_of = None if pairs is None else _prompts_of(candidates.row, pairs)
    encoder = _RowEncoder(owners, [candidates.texts], tokenizer, config, prompt_of)
    kept, _, (_, completions) = encoder.encode(progress=progress)
    return kept, completions


def encode_prompts(rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Ragged:
    """The prompts of the rows alone, with what a chat template writes to ask for an answer."""
    return _RowEncoder(rows, [], tokenizer, config).encode(progress=False).parts[0]


def _prompts_of(rows: np.ndarray, pairs: Pairs) -> Callable[[int], Ids | None]:
    """By place in `rows`, the token ids of the prompt of that row; None where it is in no pair."""
    place = np.full(int(max(rows.max(initial=-1), pairs.row.max(initial=-1))) + 1, -1, dtype=np.int64)
    place[pairs.row] = np.arange(len(pairs))

    def prompt(i: int) -> Ids | None:
        pair = place[rows[i]]
        return None if pair < 0 else pairs.prompt[pair].tolist()

    return prompt


class _RowEncoder:
    """Encodes rows with the completions of their sides.

    Attributes:
        prompt_of: gives the token ids of the prompt of a row that its answers must follow, or None to leave it out.
    """

    def __init__(
        self,
        rows: Rows,
        sides: Sequence[Sequence[Text]],
        tokenizer: PreTrainedTokenizerBase,
        config: DataConfig,
        prompt_of: Callable[[int], Ids | None] | None = None,
    ) -> None:
        self.rows, self.sides, self.config, self.prompt_of = rows, sides, config, prompt_of
        self.render = Renderer(rows, sides, tokenizer, add_eos=config.add_eos and bool(sides))
        self.tokens = _Encoder(tokenizer, special_tokens=not rows.conversational)

    def encode(self, *, progress: bool) -> Encoded:
        """All rows, by as many processes as `data.processes` says."""
        total = len(self.rows)
        blocks = [range(start, min(start + ROWS_AT_ONCE, total)) for start in range(0, total, ROWS_AT_ONCE)]
        writers = [RaggedWriter() for _ in range(len(self.sides) + 1)]
        rows, seams = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int8)]
        processes = processes_for(total, self.config.processes)
        with bar_of("tokenising", total, "row", shown=progress) as bar:
            for some, block in zip(blocks, in_order(self._block, blocks, processes), strict=True):
                rows.append(block.rows)
                seams.append(block.seams)
                for writer, part in zip(writers, block.parts, strict=True):
                    writer.append(part)
                bar.update(len(some))
        return Encoded(np.concatenate(rows), np.concatenate(seams), [writer.finish() for writer in writers])

    def _block(self, some: range) -> Encoded:
        found = self._some(some)
        columns = zip(*(ids for _, _, ids in found), strict=True) if found else [[]] * (len(self.sides) + 1)
        return Encoded(
            np.array([row for row, _, _ in found], dtype=np.int64),
            np.array([how for _, how, _ in found], dtype=np.int8),
            [Ragged.from_rows(list(column)) for column in columns],
        )

    def _some(self, some: range) -> list[tuple[int, int, list[Ids | np.ndarray]]]:
        """The rows that could be encoded, what was done to each, and the ids of its prompt and its completions."""
        texts = self.render(some)
        ids = self.tokens(texts)
        n, found = len(some), []
        for i, row in enumerate(some):
            if not ids[i]:
                raise self._no_prompt(row)
            of_row = Texts(texts[i], texts[i + n :: n], ids[i], ids[i + n :: n])
            seam = self._seam(row, of_row)
            if seam is not None:
                found.append((row, seam.how, [seam.prompt, *self._marked(row, of_row, seam)]))
        return found

    def _no_prompt(self, row: int) -> ValueError:
        return ValueError(
            f"{self.rows.where(row)} has an empty prompt, so nothing predicts the first "
            "completion token: give it a prompt, or use a tokenizer that adds a beginning-of-sequence token."
        )

    def _seam(self, row: int, texts: Texts) -> Seam | None:
        """Prompt and answers of a row apart; None for a row that is left out."""
        prompt = texts.prompt_ids if self.prompt_of is None else self.prompt_of(row)
        if prompt is None:
            return None
        n = len(prompt)
        given = self.prompt_of is not None
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
        if has_marks(self.render.chat, self.render.arguments(row)) or self.render.opening(row) == "none":
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
