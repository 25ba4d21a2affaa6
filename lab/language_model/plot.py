"""Gold reward over KL, and every arm against DPO, from the JSON of a run."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from lab.exact.candidates import CANDIDATES, CATALOGUE, SEEN_TWICE
from lab.language_model.settings import MAIN


def draw(path: Path) -> Path:
    """Write the plot beside the JSON."""
    result = json.loads(path.read_text())
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6), width_ratios=(1, 1.2))
    for arm in (*MAIN, *CANDIDATES, *SEEN_TWICE):
        of_seeds = list(result["paths"].get(arm, {}).values())
        if of_seeds:
            kl, gain = (np.mean([[0.0, *one[name]] for one in of_seeds], axis=0) for name in ("kl", "scaled_gold"))
            left.plot(kl, gain, marker=".", label=f"{CATALOGUE[arm].label} ({len(of_seeds)})")
    left.set(xlabel="KL from the supervised policy, nats", ylabel="gain of gold reward, standard deviations")
    left.legend(fontsize=8)
    budgets = result["budgets"]
    rows = [row for row in result["comparisons"] if row["budgets"] == budgets and row["change"]][::-1]
    for place, row in enumerate(rows):
        change = row["change"]
        right.plot([change["low"], change["high"]], [place, place], color="tab:blue")
        right.plot(change["mean"], place, "o", color="tab:blue")
    right.axvline(0, color="black", linewidth=0.8)
    right.set_yticks(
        range(len(rows)), [f"{CATALOGUE[row['arm']].label} ({len(row['seeds'])})" for row in rows], fontsize=8
    )
    right.set(xlabel="change of DPO's gain at equal KL, per cent, 95 % interval")
    figure.tight_layout()
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return target
