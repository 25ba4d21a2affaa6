"""What was read of the data, what was left out and what was cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iwpo_fast.data.ledger import counted
from iwpo_fast.report.html import Html, beside, paragraph, table, tag, terms
from iwpo_fast.report.numbers import count, percent
from iwpo_fast.report.run_files import RunFiles
from iwpo_fast.words import several

TITLE = "What was read, and what was cut"
NEEDS = "prepare"

LOST = {
    "without_one_prompt": "left out: the two answers have different prompts",
    "without_a_better_answer": "left out: no answer is better than another",
}
DROPPED = {
    "dropped_prefix_mismatch": "left out: an answer does not continue its prompt",
    "dropped_too_long": "left out: longer than {max_length} tokens",
    "dropped_empty": "left out: an answer is empty",
    "dropped_identical": "left out: both answers are the same",
    "dropped_unpaired": "left out: no answer is better than another",
}
CUT = {
    "prompts_cut": "prompts that lost tokens",
    "prompts_cut_away": "of these, prompts of which almost nothing is left",
    "completions_cut": "answers that lost tokens",
}
TERMS = {
    "pair": "A prompt with two answers, of which a label says the better one.",
    "cut": "What is longer than data.max_length tokens is shortened as data.truncation says, or left out.",
}

Line = tuple[str, int, int]
"""What happened, to how many, of how many."""


def body(run: RunFiles) -> Html:
    lines = [*_of_rows(run.manifest.result("prepare")), *(_of_tokens(run) if run.done("reference") else [])]
    rows = ([what, count(number), percent(number / whole) if whole else "–"] for what, number, whole in lines)
    return beside(table(["rows and pairs", "number", "share"], rows), tag("div", *_more(run), terms(TERMS)))


def _of_rows(result: dict[str, Any]) -> Iterator[Line]:
    lost = {what: result[name] for name, what in LOST.items() if result.get(name)}
    training, held_out = result["training_rows"], result["held_out_rows"]
    pairs = training + held_out
    rows = result.get("rows_with_pairs", pairs) + sum(lost.values())
    yield "rows read", rows, rows
    for what, number in lost.items():
        yield what, number, rows
    whole = rows
    if "rows_with_pairs" in result:
        yield "pairs that they make", pairs, pairs
        whole = pairs
    yield "held out, for evaluation alone", held_out, whole
    yield "for training", training, whole


def _of_tokens(run: RunFiles) -> Iterator[Line]:
    """What became of the training rows as tokens."""
    result = run.manifest.result("reference")
    rows, ledger = run.manifest.result("prepare")["training_rows"], result.get("ledger", {})
    for name, what in DROPPED.items():
        if ledger.get(name):
            yield what.format(**ledger), ledger[name], rows
    kept = result["pairs"]
    yield "pairs that were learnt from", kept, rows
    for name, what in CUT.items():
        if ledger.get(name):
            yield what, ledger[name], kept * (2 if name == "completions_cut" else 1)


def _more(run: RunFiles) -> Iterator[Html]:
    """What else was read, and what the texts hold that was not."""
    result = run.manifest.result("reference") if run.done("reference") else {}
    if "prompts" in result:
        yield paragraph(
            f"{several(result['prompts'], 'different prompt')}, {several(result['responses'], 'different answer')}."
        )
    if result.get("candidates"):
        yield paragraph(f"Candidates beside the pairs: {counted(result['candidates'])}.")
    for name, number in run.manifest.result("prepare").get("unread", {}).items():
        yield paragraph(f"The column {name} of {count(number)} rows stands in none of the texts.")
