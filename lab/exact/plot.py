"""Draws a result: arms by regime, and gold reward by the rate of longer chosen completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHOWN = {
    "default": ("#c0392b", "s"),
    "iwpo": ("#e08e79", "o"),
    "labels_only": ("#1e8449", "^"),
    "cheap_rival": ("#7f8c8d", "v"),
    "d_dpo": ("#2471a3", "D"),
}
CURVES = {
    "dpo": "#000000",
    "default": "#c0392b",
    "iwpo": "#e08e79",
    "soft_ensemble": "#d4ac0d",
    "cheap_rival": "#7f8c8d",
    "d_dpo": "#2471a3",
    "e_dpo": "#6c3483",
    "e_dpo_biased_family": "#af7ac5",
    "p_dpo": "#b9770e",
}


def draw(path: Path) -> list[Path]:
    """Writes `<stem>-regimes.png` and `<stem>-bias.png` beside a result file, each if there is something to show."""
    result = json.loads(path.read_text())
    drawn = []
    if result["regimes"]:
        drawn.append(_save(_regimes_figure(result), path, "regimes"))
    if result["bias"]:
        drawn.append(_save(_bias_figure(result), path, "bias"))
    return drawn


def _save(figure: Any, path: Path, kind: str) -> Path:
    target = path.with_name(f"{path.stem}-{kind}.png")
    figure.savefig(target, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return target


def _regimes_figure(result: dict[str, Any]) -> Any:
    regimes, budget = result["regimes"], str(result["main_budget"])
    figure, axis = plt.subplots(figsize=(9, 0.55 * len(regimes) + 1.2))
    for offset, (name, (colour, marker)) in enumerate(SHOWN.items()):
        for row, regime in enumerate(regimes):
            change = regime["arms"][name]["at_kl"][budget]["gold_change"]
            height = row + 0.15 * (offset - (len(SHOWN) - 1) / 2)
            whiskers = [[change["mean"] - change["low"]], [change["high"] - change["mean"]]]
            label = result["arms"][name]["label"] if row == 0 else None
            axis.errorbar(change["mean"], height, xerr=whiskers, fmt=marker, color=colour, capsize=2, ms=5, label=label)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(regimes)), [regime["name"] for regime in regimes])
    axis.set_ylim(len(regimes) - 0.5, -0.5)
    axis.set_xlabel(f"change of DPO's gain of gold reward at KL = {float(budget):g} nat, % (95 % interval)")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0))
    figure.suptitle(f"Exact level, {result['worlds']} worlds per regime", fontsize=11)
    figure.tight_layout()
    return figure


def _bias_figure(result: dict[str, Any]) -> Any:
    budget = str(result["main_budget"])
    rates = [regime["settings"]["longer_chosen"] for regime in result["bias"]]
    figure, (gold, change) = plt.subplots(1, 2, figsize=(9.5, 4))
    for name, colour in CURVES.items():
        at = [regime["arms"][name]["at_kl"][budget] for regime in result["bias"]]
        label = result["arms"][name]["label"]
        gold.plot(rates, [a["gold"]["mean"] for a in at], "o-", color=colour, label=label, ms=4)
        if name != "dpo":
            low, high = ([a["gold_change"][end] for a in at] for end in ("low", "high"))
            change.plot(rates, [a["gold_change"]["mean"] for a in at], "o-", color=colour, ms=4)
            change.fill_between(rates, low, high, color=colour, alpha=0.12)
    gold.set(ylabel=f"gain of gold reward at KL = {float(budget):g} nat")
    change.set(ylabel="change of DPO's gain, % (95 % interval)")
    change.axhline(0, color="black", linewidth=1)
    for axis in (gold, change):
        axis.set_xlabel("share of pairs whose chosen completion is longer")
        axis.grid(alpha=0.3)
    figure.legend(*gold.get_legend_handles_labels(), fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 0))
    figure.tight_layout()
    return figure
