"""Parts of the method that were trained by themselves beside the run."""

from __future__ import annotations

from iwpo_fast.evaluation.arms import FIRST, NOTE, Row, what_of
from iwpo_fast.evaluation.arms import verdict as verdict_on
from iwpo_fast.report.charts.intervals import Line, interval_chart
from iwpo_fast.report.html import Html, joined, note, paragraph, table, tag, terms
from iwpo_fast.report.numbers import count, interval, percent, points_of, signed
from iwpo_fast.report.run_files import RunFiles

TITLE = "Beside DPO"
NEEDS = "evaluate"

HOW = (
    "Nothing was trained beside this run. The same command with ",
    tag("code", "--baseline true"),
    " goes on from what is there and adds one training on the pairs as your data have them; ",
    tag("code", "--arms '[dpo, weights, labels, both]'"),
    " takes the method apart.",
)
TERMS = {
    "arm": "A training that differs from the run in what is done to pairs and labels, and in nothing else.",
    "paired interval": "Both models answer the same pairs, so what is compared is who is right where (Agresti and Min "
    "2005).",
}


def body(run: RunFiles) -> Html:
    rows = run.arms()
    if not rows:
        return note(*HOW)
    trained = {name: row.get("same_as", name) for name, row in rows.items()}
    first = trained.get(FIRST, FIRST)
    said = [verdict_on(name, row, trained[name] == first) for name, row in rows.items() if "difference" in row]
    lines = [Line(name, row["accuracy"], row["low"], row["high"], row["pairs"]) for name, row in rows.items()]
    title = "Accuracy on the same held-out pairs, with 95 % intervals. Dashed: chance."
    header = ["arm", "pairs", "accuracy", "95 %", "mean margin", f"beside {FIRST}, points"]
    return joined(
        [
            tag("ul", *(tag("li", line) for line in said)),
            tag("div", interval_chart("arms", title, lines, named="accuracy on held-out pairs"), class_="charts"),
            table(header, (_cells(name, what_of(name, rows), row) for name, row in rows.items())),
            terms(TERMS),
            paragraph(NOTE),
        ]
    )


def _cells(name: str, what: str, row: Row) -> list[str]:
    return [
        *(f"{name}: {what}", count(row["pairs"]), percent(row["accuracy"])),
        *(interval(row["low"], row["high"]), signed(row.get("margin", float("nan")))),
        points_of(row["difference"]) if "difference" in row else "–",
    ]
