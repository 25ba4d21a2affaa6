"""Prompts and completions as rows of a pair each, the form in which the library tokenises texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iwpo_fast.data.forms import canonical
from iwpo_fast.data.rows import Rows, Text

SILENCE: Text = [{"role": "assistant", "content": ""}]
"""An empty completion of a conversation: chat templates then write its end at least."""


def rows_of_texts(prompts: Sequence[Text], completions: Sequence[Text]) -> Rows:
    """A row for each completion, which is both completions of the row; it may be empty.

    Raises:
        ValueError: these are no lists, their numbers differ or are 0, or a text is of no form that the library knows.
    """
    for name, texts in (("prompts", prompts), ("completions", completions)):
        if isinstance(texts, str) or (len(texts) and isinstance(texts[0], dict)):
            raise ValueError(
                f"The {name} are one text and not a list of them: pass lists, as in [prompt], [completion]."
            )
    if len(prompts) != len(completions) or not len(prompts):
        raise ValueError(
            f"There are {len(prompts)} prompts and {len(completions)} completions: give one completion for each "
            "prompt, and at least one."
        )
    given: list[Text] = []
    answers: list[Text] = []
    for number, texts in enumerate(zip(prompts, completions, strict=True), start=1):
        try:
            prompt, answer = one_completion(*texts)
        except ValueError as error:
            raise ValueError(f"Text {number} {error}") from None
        if given and isinstance(prompt, str) != isinstance(given[0], str):
            raise ValueError(f"Text {number} mixes conversations and plain text with those before it: make all alike.")
        given.append(prompt)
        answers.append(answer)
    return Rows("the texts to score", np.arange(1, len(given) + 1), given, answers, answers)


def one_completion(prompt: Text | None, completion: Text | None) -> tuple[Text, Text]:
    """Prompt and completion in canonical form; of a conversation without a prompt, the last message is the completion.

    Raises:
        ValueError: they are of no form that the library knows. The message goes on from "row 1".
    """
    if completion is None:
        raise ValueError("has no completion: fill it in or remove the row.")
    if prompt is None and isinstance(completion, str):
        raise ValueError("has no prompt: add it, or name the column that holds it in data.columns.")
    if not completion and not (isinstance(prompt, str) and isinstance(completion, str)):
        completion = SILENCE
    pair = {"prompt": prompt, "chosen": completion, "rejected": completion}
    prompt, completion, _ = canonical(pair, may_be_empty=True)
    return prompt, completion
