"""A result as Markdown."""

from __future__ import annotations

from typing import Any

from lab.experiment import as_cell, as_table

OURS = ("default", "iwpo", "soft", "soft_ensemble", "labels_only")
RIVALS = ("cheap_rival", "d_dpo", "e_dpo", "p_dpo", "wpo")
PURE_FORM = (
    "IWPO in the names of arms is the pure form, τ = 2 and γ = 2, soft labels have strength 0.75; "
    "the library's defaults are weaker: [their choice and confirmation](exact-defaults.md)."
)
MAIN_ARMS = (*OURS, *RIVALS, "oracle", "soft_oracle")


def markdown(result: dict[str, Any]) -> str:
    """Tables: arms over all regimes, arms by regime, arms by rate of longer chosen completions."""
    budget = result["main_budget"]
    parts = [
        f"Change of DPO's own gain of gold reward, in per cent, at KL(π‖π_ref) = {budget:g} nat; 95 % intervals over "
        f"{result['worlds']} worlds, paired. Bold: the interval excludes zero.",
        PURE_FORM + " The last column says over how many regimes a mean is; those over fewer cannot be compared.",
    ]
    if result["regimes"]:
        parts += [_over_regimes(result), _by_regime(result, "regimes", MAIN_ARMS)]
    if result["bias"]:
        parts.append("Share of pairs whose chosen completion is the longer one, by resampling:")
        arms = tuple(name for name in result["bias"][0]["arms"] if name != "dpo")
        parts.append(_by_regime(result, "bias", arms))
    return "\n\n".join(parts)


def _over_regimes(result: dict[str, Any]) -> str:
    rows = [["arm", "", "mean over regimes", "worst regime", "best regime", "better / worse in"]]
    for name, row in result["over_regimes"].items():
        arm = result["arms"][name]
        counts = f"{row['better']} / {row['worse']} of {row['regimes']}"
        ends = [f"{as_cell(row[end])}, {row[end]['regime']}" for end in ("worst", "best")]
        rows.append([arm["group"], arm["label"], as_cell(row["gold_change"]), *ends, counts])
    return as_table(rows)


def _by_regime(result: dict[str, Any], part: str, arms: tuple[str, ...]) -> str:
    present = [name for name in arms if any(name in regime["arms"] for regime in result[part])]
    rows = [["regime", "DPO's gain", *(result["arms"][name]["label"] for name in present)]]
    budget = str(result["main_budget"])
    for regime in result[part]:
        at = {name: arm["at_kl"][budget] for name, arm in regime["arms"].items()}
        cells = [as_cell(at[name]["gold_change"]) if name in at else "" for name in present]
        rows.append([regime["name"], f"{at['dpo']['gold']['mean']:.2f}", *cells])
    return as_table(rows)
