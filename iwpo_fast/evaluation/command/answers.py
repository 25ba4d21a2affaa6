"""What answers are like, and how often a judge prefers them to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.evaluation.bootstrap import Ints, mean_of
from iwpo_fast.evaluation.command.held_out import Estimator, Report
from iwpo_fast.evaluation.command.judge import Judge
from iwpo_fast.evaluation.command.subject import Answer
from iwpo_fast.evaluation.degeneration import probes
from iwpo_fast.evaluation.length_control import length_controlled
from iwpo_fast.evaluation.preference import wins

Answers = list[list[Answer]]
"""Of each prompt."""


def degeneration_report(answers: Answers, estimate: Estimator) -> Report:
    """Length, end, and repetition of the answers, over all of them."""
    flat = [answer for of_prompt in answers for answer in of_prompt]
    values = probes([answer.tokens for answer in flat], [answer.ended for answer in flat])
    prompt = _prompt_of(answers)
    return {"answers": len(flat)} | {name: estimate(mean_of(of_all), prompt) for name, of_all in values.items()}


def win_report(rows: Rows, answers: Answers, others: list[list[str]], judge: Judge, estimate: Estimator) -> Report:
    """Win rate of the answers over others to the same prompts, as it is and at equal lengths.

    Args:
        rows: the prompts.
        others: as many texts for each prompt as there are answers; a tie counts half.
    """
    prompt = _prompt_of(answers)
    texts = [answer.text for of_prompt in answers for answer in of_prompt]
    against = [text for of_prompt in others for text in of_prompt]
    scores = judge(_compared(rows.take(prompt), texts, against)).scores
    kept = np.flatnonzero(np.isfinite(scores).all(axis=1))
    if not len(kept):
        raise ValueError("The reward model can score no answer: they are too long for it, so lower max_new_tokens.")
    gap, own = scores[kept, 0] - scores[kept, 1], prompt[kept]
    lengths = np.array([[len(texts[i]), len(against[i])] for i in kept], dtype=np.float64)
    won = wins(gap)
    return {
        "comparisons": len(kept),
        "left_out": len(texts) - len(kept),
        "ties": int((gap == 0).sum()),
        "win_rate": estimate(mean_of(won), own),
        "length_controlled_win_rate": estimate(length_controlled(won, lengths[:, 0] - lengths[:, 1]), own),
        "score_difference": estimate(mean_of(gap), own),
        "characters": estimate(mean_of(lengths[:, 0]), own),
        "characters_of_others": estimate(mean_of(lengths[:, 1]), own),
    }


def _compared(rows: Rows, texts: Sequence[str], others: Sequence[str]) -> Rows:
    """The rows with these completions in the place of their own."""
    as_chat = rows.conversational
    return replace(rows, chosen=_in_kind(texts, as_chat), rejected=_in_kind(others, as_chat), columns={})


def _in_kind(texts: Sequence[str], as_chat: bool) -> list[Text]:
    return [[{"role": "assistant", "content": text}] if as_chat else text for text in texts]


def _prompt_of(answers: Answers) -> Ints:
    return np.repeat(np.arange(len(answers)), [len(of_prompt) for of_prompt in answers])
