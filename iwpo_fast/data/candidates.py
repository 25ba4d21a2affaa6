"""Candidates in a row: further responses to its prompt, in our form or a public one, and the pairs made of them.

    | columns                                   | from           | score                                               |
    |-------------------------------------------|----------------|-----------------------------------------------------|
    | `candidates`, `candidate_scores`/`scores` | here           | as it is                                            |
    | `all_generated_responses`, `all_rm_scores`| SimPO          | as it is                                            |
    | `completions`: `response`, …              | UltraFeedback  | `fine-grained_score`, else `overall_score`, else the|
    |                                           |                | mean of the aspects' ratings                        |
    | `answers`: `answer`, `rank`               | Nectar         | minus the rank, because rank 1 is the best          |

UltraFeedback's fine-grained score, the mean of four ratings, goes before the overall one, because in earlier releases
some overall scores of 10 were misread ones of 1.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from iwpo_fast.data.candidate_scores import (
    are_structs,
    checked_scores,
    is_unknown,
    mean_score,
    scores_of,
)
from iwpo_fast.data.chat import is_assistants
from iwpo_fast.data.compared import Pairing, compared
from iwpo_fast.data.forms import (
    ASSISTANT,
    all_repeat,
    as_messages,
    as_written,
    canonical,
    check_encodable,
    is_empty,
    repeats_prompt,
    without_prompt,
)
from iwpo_fast.data.rows import Message, Text
from iwpo_fast.data.votes import Score, all_votes, mean_vote

Texts = tuple[Text, Text, Text]
Scored = tuple[Text, Score]
"""A response and its score, mean win rate or votes, NaN where it has none."""

FORMS = ("all_generated_responses", "completions", "answers")
"""Columns of public data sets that hold candidates."""
LEFT_OUT = ("in_pairs", "duplicate", "empty")
UNSCORED: tuple[Score, Score] = (math.nan, math.nan)


class PairOfRow(NamedTuple):
    """Prompt, chosen and rejected completion, with the scores of the two that the row's candidates bring.

    Attributes:
        desirable: None of a pair; of a row with one completion, which stands on both sides, what its label says.
    """

    texts: Texts
    scores: tuple[Score, Score] = UNSCORED
    desirable: bool | None = None


class RowOfPairs(NamedTuple):
    """What one row of a source holds: its pairs, and the candidates that are in none of them.

    Attributes:
        others: None where the row has no candidates at all.
        left_out: how many candidates are `in_pairs`, a `duplicate`, or `empty`.
        rewards: as of `Compared`; None where candidates were not compared.
    """

    pairs: list[PairOfRow]
    others: list[Scored] | None = None
    left_out: Mapping[str, int] | None = None
    rewards: int | None = None


def read_row(record: Mapping[str, Any], pairing: Pairing) -> RowOfPairs:
    """The pairs and candidates of a row. No pairs where no two of its candidates have different scores.

    A row with `chosen` and `rejected` is that pair. Without them its candidates are compared by score: the best with
    the worst, all of different score, or one of the upper Pareto front with one of the lowest. Equal responses are one,
    with the mean of their scores, or all votes on them.

    Raises:
        PrefixMismatch: chosen and rejected do not continue the same prompt.
        ValueError: what the row lacks, or has wrong. The message goes on from "row 1".
    """
    given = _candidates(record, several=pairing.how == "pareto", votes=pairing.votes)
    if given is None:
        return RowOfPairs([PairOfRow(canonical(record))])
    values, scores = given
    if not isinstance(prompt := record.get("prompt"), str | list):
        raise ValueError("has candidates and no prompt that is a string or a list of messages: add it.")
    if record.get("chosen") is None and record.get("rejected") is None:
        return _compared(prompt, values, scores, pairing)
    row = dict(record) | {"prompt": prompt}
    texts = canonical(row)
    _check_single_scores(scores, pairing)
    return _beside(texts, answers_beside(row, texts[0], values), scores, pairing.votes)


def read_written_row(record: Mapping[str, Any]) -> RowOfPairs:
    """The pair and the candidates of a row that has them in canonical form already; lists of scores are votes.

    Raises:
        ValueError: what the row lacks, or has wrong. The message goes on from "row 1".
    """
    texts, given = as_written(record), _candidates(record, several=False, votes=True)
    if given is None:
        return RowOfPairs([PairOfRow(texts)])
    values, scores = given
    if not all(type(value) is type(texts[0]) for value in values):
        raise ValueError("has candidates that are of another kind than its prompt: make both text, or both messages.")
    return _beside(texts, values, scores, votes=True)


def answers_beside(row: Mapping[str, Any], prompt: Text, values: list[Any]) -> list[Text]:
    """Candidates of a row that has chosen and rejected, behind the canonical prompt of these; empty where absent.

    Raises:
        ValueError: one is of no form that is known. The message goes on from "row 1".
    """
    cut = row.get("prompt") if repeats_prompt(row) else None
    return [_completion(prompt, value, cut) for value in values]


def answers_alone(prompt: Text, values: list[Any]) -> tuple[Text, list[Text]]:
    """Prompt and candidates of a row that has no others, in the form that a pair of them would have.

    Raises:
        ValueError: one is of no form that is known. The message goes on from "row 1".
    """
    if all_repeat(prompt, [value for value in values if value]):
        values = [without_prompt(prompt, value) for value in values]
    prompt, values = _apart(prompt, values)
    check_encodable([prompt])
    return prompt, [_completion(prompt, value, None) for value in values]


def responses_of(record: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """The candidates of a row without their scores, and the column that has them; None if it has none.

    Raises:
        ValueError: they are no list. The message goes on from "row 1".
    """
    name, values = "candidates", record.get("candidates")
    if values is None:
        name = next((form for form in FORMS if _has_form(form, record.get(form))), "")
        values = record.get(name)
    if values is None:
        return None
    if not isinstance(values, list):
        raise ValueError(f"has candidates of type {type(values).__name__}: make them a list of responses.")
    return name, [_response_of(value) for value in values] if are_structs(values) else values


def _candidates(record: Mapping[str, Any], *, several: bool, votes: bool) -> tuple[list[Any], list[Score]] | None:
    """Candidates and their scores, of the first form above that the row has; None if it has none."""
    if record.get("candidate_scores") is not None and record.get("candidates") is None:
        raise ValueError("has candidate_scores and no candidates: add them, or leave the scores out.")
    found = responses_of(record)
    if found is None:
        return None
    name, values = found
    return values, checked_scores(scores_of(record, name, several=several), len(values), votes=votes)


def _has_form(name: str, values: Any) -> bool:
    """Whether a column of a public data set has the form that it has there."""
    return isinstance(values, list) if name == "all_generated_responses" else are_structs(values)


def _response_of(struct: Mapping[str, Any]) -> Any:
    return struct["response"] if "response" in struct else struct["answer"]


def _compared(prompt: Text, values: list[Any], scores: list[Score], pairing: Pairing) -> RowOfPairs:
    """Pairs of candidates that only scores compare."""
    if len(values) < 2:
        raise ValueError(
            f"has {len(values)} candidates and neither chosen nor rejected, so there is no pair: give it two or more."
        )
    if all(map(is_unknown, scores)):
        raise ValueError(
            "has candidates without scores and neither chosen nor rejected, so nothing says which is better: give "
            "candidate_scores, or chosen and rejected."
        )
    prompt, texts = answers_alone(prompt, values)
    found, left_out = _merged(texts, scores, pairing.votes)
    if all(is_unknown(score) for _, score in found):  # of empty responses alone
        return RowOfPairs([], [(text, math.nan) for text, _ in found], left_out | {"in_pairs": 0})
    keys = [f"{key_of(prompt)}\n{key_of(text)}" for text, _ in found]
    given = [score for _, score in found]
    result = compared(list(map(mean_vote, given)) if pairing.votes else given, keys, pairing)
    known = given if pairing.votes else result.values
    scored = [(text, score) for (text, _), score in zip(found, known, strict=True)]
    pairs = [PairOfRow((prompt, scored[i][0], scored[j][0]), (scored[i][1], scored[j][1])) for i, j in result.couples]
    used = {k for couple in result.couples for k in couple}
    others = [one for k, one in enumerate(scored) if k not in used]
    return RowOfPairs(pairs, others, left_out | {"in_pairs": len(used)}, result.rewards)


def _apart(prompt: Text, values: list[Any]) -> tuple[Text, list[Any]]:
    """Prompt and candidates, in the form that a pair of them would have.

    A prompt as text becomes the user's message where candidates are messages. The space behind an assistant mark goes
    to the candidates, as tokenizers attach it to the word that follows.
    """
    if isinstance(prompt, list):
        return as_messages(prompt, "prompt"), values
    first = next((value for value in values if value), "")
    if isinstance(first, list):
        return _question(prompt, as_messages(first, "candidates")), values
    if prompt.endswith(f"{ASSISTANT} "):
        return prompt[:-1], [f" {value}" if isinstance(value, str) and value else value for value in values]
    return prompt, values


def _question(prompt: str, messages: list[Message]) -> list[Message]:
    """The messages that `prompt` stands for: those of a conversation up to it, or it alone as the user's."""
    asked = [k for k, message in enumerate(messages) if _says(message, prompt)]
    if not asked and not is_assistants(messages[0]):
        raise ValueError("has a prompt that is none of the messages of its candidates: make it the last they share.")
    return messages[: asked[-1] + 1] if asked else [{"role": "user", "content": prompt}]


def _says(message: Message, text: str) -> bool:
    content = message.get("content")
    return not is_assistants(message) and isinstance(content, str) and content.strip() == text.strip()


def _completion(prompt: Text, value: Any, cut: Text | None) -> Text:
    """What a candidate adds to a canonical prompt; empty for one that is absent.

    Args:
        cut: what all responses of the row begin with, and is cut off; None if they do not.
    """
    if not isinstance(value, str | list | None):
        raise ValueError(f"has a candidate of type {type(value).__name__}: make it a string or a list of messages.")
    value = without_prompt(cut, value)
    if isinstance(prompt, str):
        if isinstance(value, list):
            raise ValueError("has a prompt as text and a candidate as messages: make both the same.")
        return value or ""
    if not isinstance(value, list):
        return [{"role": "assistant", "content": value}] if value else []
    return without_prompt(prompt, as_messages(value, "candidates"))


def _merged(texts: list[Text], scores: list[Score], votes: bool) -> tuple[list[Scored], dict[str, int]]:
    """Each response once, in order of first appearance, without empty ones; and how many were left out."""
    check_encodable(texts)
    scores_by: dict[str, list[Score]] = {}
    first: dict[str, Text] = {}
    for text, score in zip(texts, scores, strict=True):
        if not is_empty(text):
            first.setdefault(key_of(text), text)
            scores_by.setdefault(key_of(text), []).append(score)
    empty = sum(map(is_empty, texts))
    left_out = {"duplicate": len(texts) - empty - len(first), "empty": empty}
    together = all_votes if votes else mean_score
    return [(text, together(scores_by[key])) for key, text in first.items()], left_out


def key_of(text: Text) -> str:
    """Equal for equal texts alone."""
    return text if isinstance(text, str) else json.dumps(text, sort_keys=True, default=reprlib.repr)


def _check_single_scores(scores: list[Score], pairing: Pairing) -> None:
    """Raise ValueError for scores beside a pair that the row names, where they would be rates of winning elsewhere."""
    if pairing.votes:
        return
    calibrated = pairing.how == "pareto" or pairing.temperature is not None
    if any(isinstance(score, tuple) or (calibrated and not is_unknown(score)) for score in scores):
        raise ValueError(
            "has chosen and rejected, beside which scores of candidates are not calibrated: leave the two out, so that "
            "pairs are made of the candidates, or leave the scores out."
        )


def _beside(texts: Texts, candidates: list[Text], scores: list[Score], votes: bool) -> RowOfPairs:
    """A pair that the row names, with the scores that its candidates have for the two."""
    found, left_out = _merged(candidates, scores, votes)
    score_of = {key_of(text): score for text, score in found}
    chosen, rejected = (key_of(text) for text in texts[1:])
    others = [(text, score) for text, score in found if key_of(text) not in (chosen, rejected)]
    left_out["duplicate"] += len(found) - len(others)
    pair = PairOfRow(texts, (score_of.get(chosen, math.nan), score_of.get(rejected, math.nan)))
    return RowOfPairs([pair], others, left_out | {"in_pairs": 0})
