"""Completions drawn from the policy before training, where the run has them."""

from __future__ import annotations

from iwpo_fast.report.html import Html, folded, joined, note, tag
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
    "A run draws nothing after training, so there is nothing to set beside. ",
    tag("code", "iwpo chat --model RUN --compare base"),
    " answers as the model does now and as it did before; ",
    tag("code", "iwpo evaluate --model RUN"),
    " draws answers to a whole file.",
)


def body(run: RunFiles) -> Html:
    samples = run.samples(SHOWN)
    shown = [
        folded(
            f"Before training, prompt {place + 1}",
            passage("prompt", text_of(row["prompt"])),
            passage("before", text_of(row["completion"])),
            unfolded=place == 0,
        )
        for place, row in enumerate(samples)
    ]
    return joined([*shown, *([] if samples else [note(*NONE_BEFORE)]), note(*NONE_AFTER)])
