"""What the policy wrote before training and after, where the run has it."""

from __future__ import annotations

from collections.abc import Iterator

from iwpo_fast.report.html import Html, folded, joined, note, paragraph, tag
from iwpo_fast.report.passages import passage
from iwpo_fast.report.run_files import RunFiles, text_of

TITLE = "Samples"
NEEDS = "prepare"
SHOWN = 5

NONE_BEFORE = (
    "This run drew nothing before training: ",
    tag("code", "--candidates.per_prompt 2"),
    " draws completions, and learns from them.",
)
NONE_AFTER = (
    "This run kept no answers to held-out prompts: ",
    tag("code", "--log.samples 5"),
    " has a training answer them before its first step and when it evaluates. Of this one, ",
    tag("code", "iwpo chat --model RUN --compare base"),
    " answers as the model does now and as it did before; ",
    tag("code", "iwpo evaluate --model RUN"),
    " draws answers to a whole file.",
)


def body(run: RunFiles) -> Html:
    return joined([*_answers(run), *_drawn(run)])


def _answers(run: RunFiles) -> Iterator[Html]:
    """Most probable answers to the same held-out prompts before and after training."""
    if not run.done("train"):
        return
    before, after = run.answers()
    if not before:
        yield note(*NONE_AFTER)
        return
    yield tag("h3", "Held-out prompts, before and after")
    yield paragraph("Answers of the most probable token each time, to prompts that training has not seen.")
    now = {row["prompt"]: row["answer"] for row in after}
    for place, row in enumerate(before[:SHOWN]):
        texts = [("prompt", row["prompt"]), ("before", row["answer"]), ("after", now.get(row["prompt"]))]
        passages = (passage(name, text) for name, text in texts if text is not None)
        yield folded(f"Held-out prompt {place + 1}", *passages, unfolded=place == 0)


def _drawn(run: RunFiles) -> Iterator[Html]:
    """Completions that were drawn at random to be learnt from."""
    samples = run.samples(SHOWN)
    if not samples:
        yield note(*NONE_BEFORE)
        return
    yield tag("h3", "Drawn before training")
    for place, row in enumerate(samples):
        texts = (passage("prompt", text_of(row["prompt"])), passage("before", text_of(row["completion"])))
        yield folded(f"Training prompt {place + 1}", *texts, unfolded=place == 0)
