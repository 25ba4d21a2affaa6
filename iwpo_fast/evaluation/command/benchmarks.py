"""RewardBench by a model's implicit rewards and by a judge, and the answers that AlpacaEval and MT-Bench ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from iwpo_fast.command_config import AnswerConfig
from iwpo_fast.config import DataConfig
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.evaluation import reward_bench
from iwpo_fast.evaluation.answer_formats import Instruction, Question
from iwpo_fast.evaluation.bootstrap import Float64s, mean_of
from iwpo_fast.evaluation.command.held_out import Estimator, Report
from iwpo_fast.evaluation.command.judge import Judge
from iwpo_fast.evaluation.command.subject import Logps, Subject
from iwpo_fast.evaluation.reward_bench import Benchmark
from iwpo_fast.rewards.text_rows import rows_of_texts


def rows_of(bench: Benchmark) -> Rows:
    """A row for each answer."""
    return rows_of_texts(bench.prompts, bench.answers)


def implicit(model: Logps, against: Logps | None, beta: float) -> Float64s:
    """float64 [C]: the log-ratio times `beta`; without a reference the mean log-prob, in nats a token."""
    if against is None:
        return np.asarray(model.means[:, 0])
    return np.asarray(beta * (model.sums - against.sums)[:, 0])


def judged(bench: Benchmark, judge: Judge) -> Float64s:
    """float64 [C]: scores of the judge."""
    rows = judge.in_its_form(rows_of(bench))
    return np.asarray(judge(replace(rows, rejected=rows.chosen)).scores[:, 0])


def reward_bench_report(bench: Benchmark, scores: Float64s, estimate: Estimator) -> Report:
    """Accuracy by subset, and the totals of the leaderboards: their sections in version 1, the mean in version 2."""
    right = reward_bench.right(bench, scores)
    subsets: Report = {}
    for name, rows in reward_bench.by_subset(bench).items():
        kept = rows[np.isfinite(right[rows])]
        of_subset = {"prompts": len(kept), "left_out": len(rows) - len(kept)}
        if bench.version == 2 and name.lower() == reward_bench.TIES:
            subsets[name] = of_subset | {"score": reward_bench.ties_score(bench, scores)}
        else:
            subsets[name] = of_subset | {"accuracy": estimate(mean_of(right[kept]), kept)}
    values = {name: of["score"] if "score" in of else of["accuracy"].value for name, of in subsets.items()}
    report: Report = {"version": bench.version, "subsets": subsets}
    if bench.version == 1:
        report["sections"] = reward_bench.sections(values, {name: of["prompts"] for name, of in subsets.items()})
        return report
    return report | {"mean": float(np.mean(list(values.values())))}


def answer_instructions(
    subject: Subject, given: Sequence[Instruction], data: DataConfig, asked: AnswerConfig
) -> list[str]:
    """The answer to each instruction."""
    rows = _asking([one.instruction for one in given])
    return [answers[0].text for answers in subject.answers(rows, data, replace(asked, per_prompt=1))]


def answer_questions(
    subject: Subject, questions: Sequence[Question], data: DataConfig, asked: AnswerConfig
) -> list[list[str]]:
    """The answers to all turns of each question, each turn behind the answers before it.

    Raises:
        ValueError: the model has no chat template, and so no turns.
    """
    if data.chat_template is None and subject.tokenizer.chat_template is None:
        raise ValueError(
            f"mt_bench asks in turns and {subject.setting} {subject.path} has no chat template: set data.chat_template."
        )
    said: list[list[str]] = [[] for _ in questions]
    for turn in range(max(len(question.turns) for question in questions)):
        for temperature in sorted({question.temperature for question in questions}):
            now = replace(asked, per_prompt=1, temperature=temperature)
            some = [i for i, q in enumerate(questions) if len(q.turns) > turn and q.temperature == temperature]
            if some:
                rows = _asking([_conversation(questions[i], said[i]) for i in some])
                for i, answers in zip(some, subject.answers(rows, data, now), strict=True):
                    said[i].append(answers[0].text)
    return said


def _conversation(question: Question, said: Sequence[str]) -> Text:
    """The turns that have been answered, with their answers, and the next one."""
    messages = []
    for turn, answer in zip(question.turns, said, strict=False):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": question.turns[len(said)]}]


def _asking(prompts: Sequence[Text]) -> Rows:
    """Rows that have these prompts and no answers yet."""
    return rows_of_texts(prompts, [""] * len(prompts))
