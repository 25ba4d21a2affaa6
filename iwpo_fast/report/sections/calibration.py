"""Whether rewards, and the trained model, are right as often as they say."""

from __future__ import annotations

import numpy as np

from iwpo_fast.evaluation.calibration_error import calibration_error, error_by_chance
from iwpo_fast.report.charts.reliability import reliability_chart
from iwpo_fast.report.html import Html, beside, joined, note, table, tag, terms
from iwpo_fast.report.numbers import decimal
from iwpo_fast.report.run_files import RunFiles

TITLE = "Calibration"
NEEDS = "weigh"

TERMS = {
    "calibration curve": "Pairs in bins of equally many, by the probability of being right that the gap of rewards "
    "says: σ(|gap|). On the dashed line one is right as often as one says; below it one is too sure.",
    "by chance": "The error that a perfectly calibrated judge would have on so few pairs. Only what is "
    "above it counts.",
}


def body(run: RunFiles) -> Html:
    pairs = run.weighted
    judges = {
        "rewards": ("Calibrated rewards, on training pairs that their heads have not seen.", pairs.gap[pairs.labelled])
    }
    if run.done("evaluate") and len(margins := run.margins().get("margin", np.empty(0))):
        judges["model"] = ("Implicit rewards of the trained model, on held-out pairs.", margins)
    charts = [reliability_chart(f"calibration-{name}", title, gaps) for name, (title, gaps) in judges.items()]
    rows = [[name, f"{len(gaps):,}", *_errors(gaps)] for name, (_, gaps) in judges.items()]
    calibrated = run.manifest.about("reward")["settings"]["rewards"]["calibration"]
    off = [] if calibrated else [note("Rewards were not calibrated (rewards.calibration false), so gaps have no unit.")]
    header = ["judge", "pairs", "calibration error", "by chance"]
    return joined([*off, tag("div", *charts, class_="charts"), beside(table(header, rows), terms(TERMS))])


def _errors(gaps: np.ndarray) -> list[str]:
    return [decimal(calibration_error(gaps)(np.ones(len(gaps)))), decimal(error_by_chance(gaps, seed=0))]
