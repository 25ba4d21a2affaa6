"""Preference pairs as text, whatever form they came in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Message = dict[str, Any]
Text = str | list[Message]


@dataclass(frozen=True)
class Rows:
    """N preference pairs in canonical form: the completions follow the prompt and do not repeat it.

    Attributes:
        source: what the rows were read from, for messages.
        numbers: int64 [N], number of each row in its source, from 1; in JSONL the line.
        prompt, chosen, rejected: N texts each, all of them strings or all of them lists of messages.
        columns: float64 [N] each, the numeric columns that the source has.
        template: for each conversation what its chat template is given beside the messages, such as `tools`.
        mismatches: rows left out because their completions do not follow one prompt.
    """

    source: str
    numbers: np.ndarray
    prompt: list[Text]
    chosen: list[Text]
    rejected: list[Text]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    template: list[dict[str, Any]] | None = None
    mismatches: int = 0

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def conversational(self) -> bool:
        return bool(self.prompt) and not isinstance(self.prompt[0], str)

    def texts(self) -> Iterator[str]:
        """Every prompt and completion, a conversation as the contents of its messages."""
        for texts in zip(self.prompt, self.chosen, self.rejected, strict=True):
            for text in texts:
                yield from contents(text)

    def take(self, rows: np.ndarray) -> Rows:
        """The given rows, in the given order; the mismatches are not among them."""
        return replace(
            self,
            mismatches=0,
            numbers=self.numbers[rows],
            prompt=[self.prompt[row] for row in rows],
            chosen=[self.chosen[row] for row in rows],
            rejected=[self.rejected[row] for row in rows],
            columns={name: values[rows] for name, values in self.columns.items()},
            template=None if self.template is None else [self.template[row] for row in rows],
        )


def contents(text: Text) -> Iterator[str]:
    """The strings in a text: itself, or the contents of its messages."""
    if isinstance(text, str):
        yield text
        return
    for message in text:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif content:
            yield from (part["text"] for part in content if part.get("text"))
