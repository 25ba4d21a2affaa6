"""What a user is told about the rewards of each cluster: accuracy, overlap, calibration error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from iwpo_fast.evaluation.preference import wins
from iwpo_fast.rewards.blocks import Float64s, Ints
from iwpo_fast.rewards.pair_table import PairTable

BINS = 10


def report_rewards(
    raw: Float64s, calibrated: Float64s, slope: Float64s, trust: Float64s, table: PairTable, pair_cluster: Ints
) -> dict[str, Any]:
    """How good the rewards of each cluster are, from mean raw rewards [C] and calibrated rewards [C].

    Returns:
        `clusters`: a row for each cluster, with
            - its index `cluster`, number of `pairs`, `slope` and `trust`;
            - `accuracy`: fraction of pairs whose chosen response has more reward;
            - `overlap`: 1 - AUC of its own chosen and rejected rewards, which no calibration can change;
            - `overlap_before`, `overlap_after`: 1 - AUC of its chosen rewards and the rejected ones of *all* clusters,
              before and after calibration: what comparing rewards across clusters costs;
            - `calibration_error`: expected calibration error of σ(Δ) after calibration.
        `total`: the same of all pairs, where `cluster`, `slope` and `trust` are None.
    """
    chosen_before, rejected_before = raw[table.chosen], raw[table.rejected]
    chosen_after, rejected_after = calibrated[table.chosen], calibrated[table.rejected]

    def row(cluster: int | None) -> dict[str, Any]:
        inside = np.ones(len(table), dtype=bool) if cluster is None else pair_cluster == cluster
        return {
            "cluster": cluster,
            "pairs": int(inside.sum()),
            "accuracy": pair_accuracy(chosen_before[inside] - rejected_before[inside]),
            "overlap": overlap(chosen_before[inside], rejected_before[inside]),
            "overlap_before": overlap(chosen_before[inside], rejected_before),
            "overlap_after": overlap(chosen_after[inside], rejected_after),
            "calibration_error": calibration_error(chosen_after[inside] - rejected_after[inside]),
            "slope": None if cluster is None else float(slope[cluster]),
            "trust": None if cluster is None else float(trust[cluster]),
        }

    return {"clusters": [row(k) for k in range(len(slope))], "total": row(None)}


def report_pessimism(before: Float64s, after: Float64s, table: PairTable) -> dict[str, float]:
    """What pessimism did to rewards [C]: mean and largest of what it took off, and accuracies before and after."""
    taken, gaps = before - after, (r[table.chosen] - r[table.rejected] for r in (before, after))
    was, now = map(pair_accuracy, gaps)
    return {"mean": float(taken.mean()), "most": float(taken.max()), "accuracy_before": was, "accuracy": now}


def mixture_lines(report: dict[str, Any]) -> Iterator[str]:
    """Whether clusters are those of a mixture; nothing of the empty report of k-means."""
    if report:
        yield (
            f"a mixture of rewards predicts labels that it has not seen {report['held_out_gain']:+.4f} nats per pair "
            f"better than k-means or one head, standard error {report['standard_error']:.4f}: "
            + ("its clusters are taken" if report["taken"] else "the clusters of k-means stay")
        )


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """The report as a table for the terminal, with the penalties of the heads, if heads made the rewards."""
    yield "cluster    pairs  accuracy  overlap  across before  after  calibration error  slope  trust"
    for row in [*report["clusters"], report["total"]]:
        name = "all" if row["cluster"] is None else str(row["cluster"])
        fit = "" if row["slope"] is None else f"  {row['slope']:5.2f}  {row['trust']:5.2f}"
        yield (
            f"{name:>7}  {row['pairs']:>7,}  {row['accuracy']:8.3f}  {row['overlap']:7.3f}  "
            f"{row['overlap_before']:13.3f}  {row['overlap_after']:5.3f}  {row['calibration_error']:17.3f}{fit}"
        )
    if report["penalties"] is not None:
        ridge, residual = report["penalties"]["ridge"], report["penalties"]["residual"]
        residuals = "no residuals" if residual is None else f"residual {residual:.1e}"
        yield f"reward heads: ridge {ridge:.1e}, {residuals}"
        yield from _network_lines(report["penalties"].get("networks"))
        yield from _preference_lines(report["penalties"].get("preferences"))
        yield from _distribution_lines(report["penalties"].get("distributions"))
    yield from _family_lines(report.get("family"))
    if (pessimism := report.get("pessimism")) is not None:
        yield (
            f"pessimism ({pessimism['form']}) takes {pessimism['mean']:.2f} off a reward, at most "
            f"{pessimism['most']:.2f}: accuracy {pessimism['accuracy_before']:.3f} before and "
            f"{pessimism['accuracy']:.3f} after"
        )


def _network_lines(networks: dict[str, Any] | None) -> Iterator[str]:
    """Which networks stand beside the linear heads, or why none do; nothing where none were asked for."""
    if networks is None:
        return
    gain, error = networks["held_out_gain"], networks["standard_error"]
    verdict = "taken" if networks["taken"] else "not taken"
    yield (
        f"networks of width {networks['width']}, decay {networks['decay']}, {networks['rounds']} rounds: {verdict}, "
        f"held-out log-likelihood {gain:+.4f} nats per pair, standard error {error:.4f}"
    )


def _preference_lines(preferences: dict[str, Any] | None) -> Iterator[str]:
    """How preference embeddings were trained and how good their scores of pairs are; nothing where there are none."""
    if preferences is None:
        return
    tuned = preferences.get("tuned_pair_accuracy")
    after = "" if tuned is None else f", after tuning in {tuned:.1%}"
    yield (
        f"preference embeddings of {preferences['dimension']} dimensions, decay {preferences['decay']}, "
        f"{preferences['rounds']} rounds: scores of pairs are right in {preferences['pair_accuracy']:.1%}{after}, "
        f"held-out log-likelihood {preferences['held_out_gain']:+.4f} nats per pair beside linear heads, standard "
        f"error {preferences['standard_error']:.4f}"
    )


def _distribution_lines(found: dict[str, Any] | None) -> Iterator[str]:
    """What distributions over grades were learnt from; nothing where there are none."""
    if found is None:
        return
    values = ", ".join(f"{value:g}" for value in found["values"])
    yield (
        f"distributions over the grades {values}, from {found['graded']:,} responses, decay {found['decay']}, "
        f"{found['rounds']} rounds"
    )


def _family_lines(family: dict[str, Any] | None) -> Iterator[str]:
    """How each member of a family does, beside what it learnt from; nothing where there is none."""
    if family is None:
        return
    if family.get("longer") is not None:
        yield f"the longer response is chosen in {family['longer']:.1%} of {family['differing']:,} pairs that differ"
    for row in family["members"]:
        length = f", correlation with length {row['length']:+.2f}" if "length" in row else ""
        yield f"member {member_name(row)}: accuracy {row['accuracy']:.3f}{length}"


def member_name(row: Mapping[str, Any]) -> str:
    """What a member of a family is called, given its row of the report."""
    if row["share"] is not None:
        return f"{row['share']:.0%} of prompts"
    return "natural" if row["rate"] is None else f"rate {row['rate']:g}"


def pair_accuracy(gaps: Float64s) -> float:
    """Fraction of pairs whose chosen response has more reward; ties count half. NaN without pairs."""
    return float(wins(gaps).mean()) if len(gaps) else float("nan")


def overlap(chosen: Float64s, rejected: Float64s) -> float:
    """1 - AUC: probability that a rejected response has more reward than a chosen one, both random; ties count half."""
    if not len(chosen) or not len(rejected):
        return float("nan")
    ordered = np.sort(rejected)
    below = np.searchsorted(ordered, chosen, side="left") + np.searchsorted(ordered, chosen, side="right")
    return float(1 - below.mean() / (2 * len(rejected)))


def calibration_error(gaps: Float64s) -> float:
    """Expected calibration error of "the label is right with probability σ(Δ)", in ten bins of confidence.

    A pair has confidence max(σ(Δ), σ(-Δ)) in whichever response has more reward, and that is right or not.
    """
    if not len(gaps):
        return float("nan")
    confidence = expit(np.abs(gaps))
    right = wins(gaps)
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, weights=right - confidence, minlength=BINS)).sum() / len(gaps))
