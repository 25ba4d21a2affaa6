"""Held-out pairs before and after training, by cluster, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iwpo_fast.report.charts.histogram import histogram
from iwpo_fast.report.charts.intervals import MOST, Line, interval_chart
from iwpo_fast.report.html import Html, beside, joined, note, paragraph, table, tag, terms
from iwpo_fast.report.numbers import count, interval, percent, signed
from iwpo_fast.report.preferences import Preference, preferences
from iwpo_fast.report.run_files import RunFiles

TITLE = "Before and after, on held-out pairs"
NEEDS = "evaluate"

TERMS = {
    "held-out pairs": "Pairs that training has not seen. Their labels may be wrong themselves, so 100 % is not "
    "the aim.",
    "accuracy": "Share of the pairs whose better answer has the larger implicit reward; a tie counts half.",
    "margin": "Implicit reward of the better answer minus that of the other, in log-odds. For DPO the implicit reward "
    "is β times the log-ratio of model and reference.",
    "95 % interval": "Wilson's, of this one training: another seed adds to it. Pairs of one prompt count as one.",
}
CHANCE = "Before training the model was its own reference, so every margin was 0 and accuracy one half."


def body(run: RunFiles) -> Html:
    found = preferences(run)
    if not found:
        return note("No pair was held out: set data.eval_fraction, data.eval_path or data.eval_split.")
    charts = [
        interval_chart(
            "held-out-accuracy",
            "Accuracy after training, with 95 % intervals. Dashed: chance. Diamonds: before training.",
            [Line(one.name, one.after, one.low, one.high, one.pairs, one.before) for one in found],
            named="accuracy on held-out pairs",
        ),
        histogram(
            "held-out-margins",
            "Margins after training. Right of the dashed line the model prefers the better answer.",
            run.margins()["margin"],
            named="margin, log-odds",
            line=0.0,
        ),
    ]
    header = ["pairs of", "pairs", "before", "after", "95 %", "mean margin"]
    return joined(
        [
            *_said(found),
            tag("div", *charts, class_="charts"),
            beside(table(header, map(_cells, found)), terms(TERMS)),
        ]
    )


def _said(found: Sequence[Preference]) -> Iterator[Html]:
    if found[0].is_chance:
        yield paragraph(CHANCE)
    if worse := [one.name for one in found[1:] if one.is_worse]:
        yield paragraph(f"Worse than before in {', '.join(worse)}: look at what these prompts are, further down.")
    if len(found) > MOST:
        yield note(f"The chart has the first {MOST} lines, the table has all.")


def _cells(one: Preference) -> list[str]:
    return [
        *(one.name, count(one.pairs), percent(one.before), percent(one.after)),
        *(interval(one.low, one.high), signed(one.margin)),
    ]
