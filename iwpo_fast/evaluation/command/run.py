"""The order of an evaluation: read, score and answer by one model after the other, judge, report."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iwpo_fast.command_config import EvaluateConfig
from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.as_chat import for_model
from iwpo_fast.data.candidates import key_of
from iwpo_fast.data.columns import SCORES
from iwpo_fast.data.rows import Rows, contents
from iwpo_fast.data.unique import numbered
from iwpo_fast.data.unpaired import refuse_unpaired
from iwpo_fast.evaluation import answer_formats, reward_bench
from iwpo_fast.evaluation.answer_formats import Instruction, Question, as_instruction
from iwpo_fast.evaluation.bootstrap import Estimate, bootstrap
from iwpo_fast.evaluation.command.answers import Answers, degeneration_report, win_report
from iwpo_fast.evaluation.command.benchmarks import (
    answer_instructions,
    answer_questions,
    implicit,
    judged,
    reward_bench_report,
    rows_of,
)
from iwpo_fast.evaluation.command.checks import Outputs, check
from iwpo_fast.evaluation.command.held_out import HeldOut, held_out_report
from iwpo_fast.evaluation.command.judge import Judge, judge_of
from iwpo_fast.evaluation.command.screen import screen
from iwpo_fast.evaluation.command.subject import Logps, Subject
from iwpo_fast.evaluation.reward_bench import Benchmark
from iwpo_fast.files import save_json
from iwpo_fast.limits import check_limits
from iwpo_fast.paths import expanded
from iwpo_fast.terminal import escaped
from iwpo_fast.world import World


class Given(NamedTuple):
    """What the models are asked; None for what is not.

    Attributes:
        data: how texts become tokens.
        rows: the held-out pairs.
        prompt: int64 [N], of each pair.
        answered: int64 [A], rows with the prompts that are answered.
    """

    data: DataConfig
    rows: Rows | None
    prompt: np.ndarray
    answered: np.ndarray
    bench: Benchmark | None
    instructions: list[Instruction] | None
    questions: list[Question] | None


class Said(NamedTuple):
    """What one model makes of it."""

    name: str
    pairs: Logps | None
    bench: Logps | None
    answers: Answers | None
    instructions: list[str] | None
    questions: list[list[str]] | None


def evaluate_model(config: EvaluateConfig) -> None:
    """Write `config.output` and the answers beside it, and print a table.

    Raises:
        ValueError: one sentence on what is wrong with the configuration, a model or the data, and what to do.
    """
    check_limits(config)
    outputs = check(config)
    world = World.start(config.device)
    if world.size > 1:
        raise ValueError("iwpo evaluate runs in one process: start it without torchrun.")
    with _cache(config.cache_dir) as cache:
        models = {
            name: Subject.of(config, name, world, cache) for name in ("model", "against") if _is_set(config, name)
        }
        given = _read(config, models["model"])
        judge = None if config.reward_model is None else judge_of(config, world, cache)
        said = {name: _said(model, given, config) for name, model in models.items()}
        report = _report(config, given, said, judge)
    for name, of in said.items():
        _save_answers(outputs, name, of, given)
    save_json(outputs.report, _plain(report))
    print("\n".join([*screen(report), "", f"all numbers are in {escaped(config.output)}"]))


def _is_set(config: EvaluateConfig, name: str) -> bool:
    return getattr(config, name) is not None


def _read(config: EvaluateConfig, model: Subject) -> Given:
    """Everything that is asked, before any model runs."""
    bench = None if config.rewardbench is None else reward_bench.read(config.rewardbench)
    instructions = None if config.alpaca_eval is None else answer_formats.read_instructions(config.alpaca_eval)
    questions = None if config.mt_bench is None else answer_formats.read_questions(config.mt_bench)
    of_pairs = {} if config.data is None else vars(config.data)
    ours = {"eval_fraction": 0.0, "max_length": config.max_length, "truncation": "drop"}
    data = DataConfig(**({"path": ""} | of_pairs | ours))
    if config.data is None:
        none = np.empty(0, dtype=np.int64)
        return Given(data, None, none, none, bench, instructions, questions)
    rows = read_rows(data)[0].without_candidates()
    refuse_unpaired(rows, "iwpo evaluate")
    rows = for_model(rows, model.tokenizer, data.as_chat, data.chat_template)
    prompt, first = numbered(map(key_of, rows.prompt))
    answered = np.sort(first)[: config.answers.prompts] if config.answers.per_prompt else first[:0]
    return Given(data, rows, prompt, answered, bench, instructions, questions)


def _said(model: Subject, given: Given, config: EvaluateConfig) -> Said:
    """All that one model is asked; its memory is free afterwards."""
    asked, rows, data = config.answers, given.rows, given.data
    of_benchmarks = replace(data, as_chat="auto")
    pairs = None if rows is None else model.logps(rows, data)
    bench = None if given.bench is None else model.logps(rows_of(given.bench), of_benchmarks)
    answers = (
        model.answers(rows.take(given.answered), data, asked) if rows is not None and len(given.answered) else None
    )
    instructions = questions = None
    if given.instructions is not None:
        instructions = answer_instructions(model, given.instructions, of_benchmarks, asked)
    if given.questions is not None:
        questions = answer_questions(model, given.questions, of_benchmarks, asked)
    model.free()
    return Said(model.name, pairs, bench, answers, instructions, questions)


def _report(config: EvaluateConfig, given: Given, said: dict[str, Said], judge: Judge | None) -> dict[str, Any]:
    estimate = partial(bootstrap, resamples=config.resamples, seed=config.seed)
    model, against = said["model"], said.get("against")
    report: dict[str, Any] = {"model": model.name, "against": None if against is None else against.name}
    report["settings"] = {"beta": config.beta, "resamples": config.resamples, "seed": config.seed}
    if given.rows is not None and model.pairs is not None:
        other = None if against is None else against.pairs
        report["held_out"] = held_out_report(_held_out(given, judge), model.pairs, other, config.beta, estimate)
    if model.answers is not None:
        drawn = {name: of.answers for name, of in said.items() if of.answers is not None}
        report["answers"] = {name: degeneration_report(answers, estimate) for name, answers in drawn.items()}
        if judge is not None and given.rows is not None:
            rows = given.rows.take(given.answered)
            others = _chosen(rows, config) if against is None else _texts(drawn["against"])
            report["wins"] = win_report(rows, model.answers, others, judge, estimate) | {
                "beside": "the chosen ones of the data" if against is None else f"those of {against.name}"
            }
    if given.bench is not None and model.bench is not None:
        scores = {"implicit_reward": implicit(model.bench, None if against is None else against.bench, config.beta)}
        if judge is not None:
            scores["reward_model"] = judged(given.bench, judge)
        report["rewardbench"] = {name: reward_bench_report(given.bench, of, estimate) for name, of in scores.items()}
    return report


def _held_out(given: Given, judge: Judge | None) -> HeldOut:
    """The pairs with scores and clusters: the judge's, or those of the data."""
    rows = given.rows
    assert rows is not None
    if judge is not None:
        found = judge(rows)
        return HeldOut(given.prompt, found.scores[:, 0] - found.scores[:, 1], found.cluster)
    gap = cluster = None
    if SCORES[0] in rows.columns:
        scores = [rows.columns[name].reshape(len(rows), -1).mean(axis=1) for name in SCORES]
        gap = scores[0] - scores[1]
    if "cluster" in rows.columns:
        cluster = np.nan_to_num(rows.columns["cluster"], nan=-1).astype(np.int64)
    return HeldOut(given.prompt, gap, cluster)


def _chosen(rows: Rows, config: EvaluateConfig) -> list[list[str]]:
    return [["".join(contents(text))] * config.answers.per_prompt for text in rows.chosen]


def _texts(answers: Answers) -> list[list[str]]:
    return [[answer.text for answer in of_prompt] for of_prompt in answers]


def _save_answers(outputs: Outputs, who: str, said: Said, given: Given) -> None:
    if said.answers is not None and given.rows is not None:
        prompts = given.rows.take(given.answered).prompt
        asked = [Instruction(as_instruction(prompt), "held out") for prompt in prompts]
        pairs = [(one, answer.text) for one, of in zip(asked, said.answers, strict=True) for answer in of]
        one, texts = zip(*pairs, strict=True)
        answer_formats.save_alpaca_eval(outputs.answers(who, "answers.json"), one, texts, said.name)
    if said.instructions is not None and given.instructions is not None:
        path = outputs.answers(who, "alpaca_eval.json")
        answer_formats.save_alpaca_eval(path, given.instructions, said.instructions, said.name)
    if said.questions is not None and given.questions is not None:
        path = outputs.answers(who, "mt_bench.jsonl")
        answer_formats.save_mt_bench(path, given.questions, said.questions, said.name)


@contextmanager
def _cache(folder: str | None) -> Iterator[Path]:
    """The given folder, which stays, or one that goes with the body."""
    if folder is not None:
        yield expanded(folder)
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def _plain(value: Any) -> Any:
    """As JSON can hold it: estimates by name, and null for what is no number."""
    if isinstance(value, Estimate):
        return {name: _plain(number) for name, number in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
