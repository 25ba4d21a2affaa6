"""Instructions of AlpacaEval and questions of MT-Bench, and answers in the formats that their judges read."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from iwpo_fast.data.places import Place
from iwpo_fast.data.records import read_all
from iwpo_fast.data.rows import Text, contents
from iwpo_fast.files import save_json, written_aside

T = TypeVar("T")

NEAR_GREEDY = 1e-3
"""Temperature that stands for 0: tokens differ from the most probable ones only where logits all but tie."""

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": NEAR_GREEDY,
    "math": NEAR_GREEDY,
    "coding": NEAR_GREEDY,
    "reasoning": NEAR_GREEDY,
    "stem": 0.1,
    "humanities": 0.1,
}
"""FastChat's temperature of each category of MT-Bench; `OTHERS` for categories of one's own."""

OTHERS = 0.7


class Question(NamedTuple):
    """A question of MT-Bench."""

    question_id: int | str
    category: str
    turns: list[str]

    @property
    def temperature(self) -> float:
        return TEMPERATURES.get(self.category, OTHERS)


class Instruction(NamedTuple):
    """An instruction of AlpacaEval, with the data set that it is from."""

    instruction: str
    dataset: str


def read_instructions(path: str) -> list[Instruction]:
    """AlpacaEval's evaluation set, or any file with a column `instruction`.

    Raises:
        ValueError: it is not there, or a row has no instruction.
    """
    return _read(path, "alpaca_eval", _instruction)


def read_questions(path: str) -> list[Question]:
    """FastChat's `question.jsonl`.

    Raises:
        ValueError: it is not there, or a row is no question.
    """
    return _read(path, "mt_bench", _question)


def _read(path: str, setting: str, parse: Callable[[dict[str, Any]], T]) -> list[T]:
    records, source = read_all(Place(path, setting=setting))
    found = []
    for number, record in records.items():
        try:
            found.append(parse(record))
        except ValueError as error:
            raise ValueError(f"{source.numbering.where(number)} {error}") from None
    return found


def _instruction(record: dict[str, Any]) -> Instruction:
    text = record.get("instruction")
    if not isinstance(text, str) or not text:
        raise ValueError("has no instruction: give AlpacaEval's evaluation set, or rows with a text of that name.")
    return Instruction(text, str(record.get("dataset") or "own"))


def _question(record: dict[str, Any]) -> Question:
    turns = record.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn for turn in turns):
        raise ValueError("has no list of texts as its turns: give the question.jsonl of MT-Bench.")
    if not isinstance(record.get("question_id"), int | str):
        raise ValueError("has no question_id: give the question.jsonl of MT-Bench.")
    return Question(record["question_id"], str(record.get("category") or "other"), turns)


def as_instruction(prompt: Text) -> str:
    """A prompt as AlpacaEval has it: one text, in which the turns of a longer conversation have their roles."""
    if isinstance(prompt, str) or len(prompt) == 1:
        return "".join(contents(prompt))
    return "\n\n".join(f"{message['role']}: {''.join(contents([message]))}" for message in prompt)


def save_alpaca_eval(path: Path, given: Sequence[Instruction], answers: Sequence[str], generator: str) -> None:
    """Write what `alpaca_eval --model_outputs` and `--reference_outputs` read: a list with a dictionary each."""
    outputs = [
        {"dataset": one.dataset, "instruction": one.instruction, "output": answer, "generator": generator}
        for one, answer in zip(given, answers, strict=True)
    ]
    save_json(path, outputs)


def save_mt_bench(path: Path, questions: Sequence[Question], turns: Sequence[list[str]], model: str) -> None:
    """Write what FastChat's judge reads as `model_answer/MODEL.jsonl`: a line for each question.

    Args:
        turns: the answer to every turn of each question.
    """
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8") as file:
        for question, said in zip(questions, turns, strict=True):
            line = {
                "question_id": question.question_id,
                "answer_id": _answer_id(model, question, said),
                "model_id": model,
                "choices": [{"index": 0, "turns": said}],
                "tstamp": time.time(),
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _answer_id(model: str, question: Question, said: list[str]) -> str:
    """The same for the same answers; FastChat's own are random, and nothing reads them."""
    return hashlib.sha256(json.dumps([model, question.question_id, said]).encode()).hexdigest()[:22]
