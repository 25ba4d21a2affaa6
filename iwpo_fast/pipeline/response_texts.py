"""The texts of the training responses, each once, as the stages count them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iwpo_fast.data import Pairs
from iwpo_fast.data.candidates import key_of
from iwpo_fast.data.rows import Rows, Text, contents
from iwpo_fast.data.unique import Responses, numbered


class ResponseTexts(NamedTuple):
    """Of C responses.

    Attributes:
        row: int64 [C], the row of the training data whose prompt each of them answers.
        prompt, completion: C texts each.
    """

    row: np.ndarray
    prompt: list[Text]
    completion: list[Text]

    @property
    def prompt_of(self) -> np.ndarray:
        """int64 [C]: which prompt each response answers, as it was before any of it was cut.

        Prompts that `data.max_length` cuts to the same last tokens are one for the model, and not for a reader.
        """
        return numbered(map(key_of, self.prompt))[0]

    def of_pair(self, chosen: int, rejected: int) -> dict[str, str]:
        """What a report shows of two responses to one prompt."""
        parts = {
            "prompt": self.prompt[chosen],
            "chosen": self.completion[chosen],
            "rejected": self.completion[rejected],
        }
        return {name: "\n".join(contents(text)) for name, text in parts.items()}


def response_texts(rows: Rows, pairs: Pairs, responses: Responses) -> ResponseTexts:
    """Of all responses of `pairs`, which were read from `rows`. Where texts have equal tokens, the last of them."""
    row = np.zeros(len(responses), dtype=np.int64)
    completion: list[Text] = [""] * len(responses)
    sides = [(responses.chosen, pairs.row, [rows.chosen[i] for i in pairs.row])]
    sides += [(responses.rejected, pairs.row, [rows.rejected[i] for i in pairs.row])]
    if (candidates := pairs.candidates) is not None:
        sides.append((responses.candidates, pairs.row[candidates.pair], candidate_texts(rows, pairs)))
    for places, owners, texts in sides:
        for place, owner, text in zip(places.tolist(), owners.tolist(), texts, strict=True):
            row[place], completion[place] = owner, text
    return ResponseTexts(row, [rows.prompt[i] for i in row.tolist()], completion)


def candidate_texts(rows: Rows, pairs: Pairs) -> list[Text]:
    """The texts of the candidates that fit."""
    assert rows.candidates is not None and pairs.candidates is not None
    return [rows.candidates.texts[i] for i in pairs.candidates.source]
