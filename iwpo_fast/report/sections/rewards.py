"""How often rewards agree with labels that they have not seen, beside chance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iwpo_fast.evaluation.preference import preference_accuracy
from iwpo_fast.report.charts.intervals import Line, interval_chart
from iwpo_fast.report.html import Html, beside, joined, paragraph, table, terms
from iwpo_fast.report.numbers import count, decimal, percent, signed
from iwpo_fast.report.run_files import RunFiles
from iwpo_fast.rewards.report import member_name

TITLE = "Rewards beside chance"
NEEDS = "reward"

TERMS = {
    "reward head": "A small regression on the frozen model's hidden states that learns from labels which answer is "
    "better. Every pair is scored by heads that have not seen it.",
    "slope": "By what raw rewards are multiplied so that they are log-odds of the label. Near 0 they say "
    "nothing of it.",
    "trust": "The slope, at most 1: how far a label may be doubted by these rewards.",
    "calibration error": "Mean distance between the probability of being right that rewards say, and the share "
    "that is.",
}
SOURCES = {
    "features": "Rewards come from heads on the frozen model's hidden states.",
    "columns": "Rewards are scores that the data brought.",
    "model": "Rewards are those of another model, a sequence classifier.",
    "iwpo": "Rewards are those of the reward model of another run.",
}


def body(run: RunFiles) -> Html:
    report = run.rewards()
    rows = [report["total"], *report["clusters"]]
    title = "Pairs whose better answer has the larger reward, with 95 % intervals. Dashed: chance."
    drawn = interval_chart("rewards", title, [_line(row) for row in rows if row["pairs"]], named="accuracy of rewards")
    header = ["rewards of", "pairs", "accuracy", "calibration error", "slope", "trust"]
    source = run.manifest.about("reward")["settings"]["rewards"]["source"]
    return joined(
        [
            paragraph(" ".join([SOURCES[source], *_verdict(report["total"]), *_heads(report.get("penalties"))])),
            beside(drawn, table(header, map(_cells, rows))),
            *_family(report.get("family")),
            terms(TERMS),
        ]
    )


def _line(row: dict[str, Any]) -> Line:
    pairs = int(row["pairs"])
    return Line(_name(row), *preference_accuracy(min(pairs, row["accuracy"] * pairs), pairs), pairs)


def _verdict(total: dict[str, Any]) -> Iterator[str]:
    _, _, low, high, *_ = _line(total)
    if low > 0.5:
        yield "Over all pairs they are surely better than chance."
    elif high < 0.5:
        yield "Over all pairs they are worse than chance: look at the labels."
    else:
        yield "Over all pairs they cannot be told from chance, so little is done to weights and labels."


def _heads(penalties: dict[str, Any] | None) -> Iterator[str]:
    if not penalties:
        return
    if networks := penalties.get("networks"):
        taken = "taken" if networks["taken"] else "not taken"
        yield f"Small networks were tried and {taken}: {_gain(networks)}."
    if preferences := penalties.get("preferences"):
        tuned = preferences.get("tuned_pair_accuracy")
        after = "" if tuned is None else f", and in {percent(tuned)} after tuning"
        yield (
            f"Preference embeddings (GPM) of {preferences['dimension']} dimensions score pairs of answers: on held-out "
            f"pairs these scores are right in {percent(preferences['pair_accuracy'])}{after}. Beside linear heads they "
            f"{_gain(preferences)}."
        )


def _gain(tried: dict[str, Any]) -> str:
    """What heads predict better on labels that they have not seen."""
    return f"gain {tried['held_out_gain']:+z.4f} nats per pair (standard error {tried['standard_error']:.4f})".replace(
        "-", "−"
    )


def _family(family: dict[str, Any] | None) -> Iterator[Html]:
    """The members of a family; nothing where there is none."""
    if not family:
        return
    yield paragraph(
        "Each member of the family of reward models learns from other pairs: from a draw in which the longer answer is "
        "chosen at some rate, from the pairs as they are, or from those of some prompts."
        + ("" if family["longer"] is None else f" In the pairs as they are that rate is {percent(family['longer'])}.")
    )
    members = ([member_name(row), percent(row["accuracy"]), signed(row["length"])] for row in family["members"])
    yield table(["member", "accuracy", "correlation with length"], members)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        *(_name(row), count(row["pairs"]), percent(row["accuracy"])),
        *(decimal(row[name]) for name in ("calibration_error", "slope", "trust")),
    ]


def _name(row: dict[str, Any]) -> str:
    return "all pairs" if row["cluster"] is None else f"cluster {row['cluster']}"
