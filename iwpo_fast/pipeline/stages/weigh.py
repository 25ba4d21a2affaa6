"""Turn rewards into one weight and one soft label per pair, draw preferred pairs, and write all beside the texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.config import RunConfig, WeightConfig
from iwpo_fast.config_checks import leaves_room
from iwpo_fast.data import Pairs
from iwpo_fast.data.mix import together
from iwpo_fast.data.rows import Rows, contents
from iwpo_fast.data.unique import Responses
from iwpo_fast.files import load_tensors, save_json
from iwpo_fast.importance import (
    PairRewards,
    PairWeights,
    pair_rewards,
    pair_weights,
    report_lines,
    save_histogram,
    weight_report,
)
from iwpo_fast.importance.labels import flipped_by_grades
from iwpo_fast.importance.preferred import Preferred, draw_preferred, has_several
from iwpo_fast.importance.preferred_report import preferred_lines, preferred_report, save_preferred_plot
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result, sections
from iwpo_fast.pipeline.origin import origin_of, save_lines
from iwpo_fast.pipeline.preferred import check_preferred, draws_for, proposal_of, weight_of_prompts, with_preferred
from iwpo_fast.pipeline.reference_samples import ReferenceSamples, reference_samples
from iwpo_fast.pipeline.response_texts import ResponseTexts, response_texts
from iwpo_fast.pipeline.rows_file import write_rows

WHAT = "importance weights, soft labels and preferred pairs"
NEEDS = ("prepare", "sample", "reference", "cluster", "reward")

Columns = dict[str, np.ndarray]
Drawn = tuple[Preferred, ResponseTexts]


def settings(config: RunConfig) -> dict[str, Any]:
    shared = sections(config, "weights", "seed") | {"leaves_room": leaves_room(config)}
    draws = config.weights.resolved().preferred_pairs != 0
    return shared | ({"label_smoothing": config.objective.label_smoothing} if draws else {})


def outputs(folder: PipelineFolder) -> list[Path]:
    return [folder.weighted, origin_of(folder.weighted), folder.weight_report, folder.histogram, folder.preferred]


def check(job: PipelineJob) -> None:
    """Raise ValueError if preferred pairs are asked for and the data leave nothing to draw."""
    check_preferred(job.config)


def run(job: PipelineJob) -> Result:
    pairs, scores = job.load_pairs(), load_tensors(job.folder.rewards)
    asked = _weight_settings(job.config, pairs)
    soft_labels = asked.resolved().soft_labels
    rewards = _rewards(job, scores)
    weights = pair_weights(rewards, asked, seed=job.config.seed)
    if soft_labels == "grades":
        weights = replace(weights, label_smoothing=flipped_by_grades(scores["win"]))
    drawn = _draw(job, rewards, asked)
    _report(job, weights, rewards, drawn)
    weights.check(asked)
    columns = _weight_columns(pairs, weights, soft_labels != 0)
    samples = _samples(job, columns["weight"], drawn) if asked.forward_kl == "samples" else None
    _write(job, columns, scores, drawn, samples)
    result = {
        "pairs": len(pairs),
        "noise": rewards.noise,
        "tau": weights.tau,
        "ess": weights.ess,
        "cluster_ess": weights.cluster_ess.tolist(),
        "soft_labels": soft_labels,
        "mean_label_smoothing": float(weights.label_smoothing.mean()),
    }
    result |= {} if drawn is None else {"preferred_pairs": len(drawn[0].weight)}
    return result | ({} if samples is None else {"reference_samples": len(samples.weight)})


def _rewards(job: PipelineJob, scores: Columns) -> PairRewards:
    calibrated, trust, members = (scores[name] for name in ("calibrated", "trust", "members_calibrated"))
    table, prompt_cluster = job.read_table(), job.read_prompt_clusters()
    return pair_rewards(calibrated, trust, table, prompt_cluster, members, scores["reliability"])


def _draw(job: PipelineJob, rewards: PairRewards, asked: WeightConfig) -> Drawn | None:
    """Preferred pairs and the texts of all responses; None where none are drawn."""
    pairs, table = job.load_pairs(), job.read_table()
    if not draws_for(job.config, pairs, table.prompt_of):
        return None
    responses = Responses.of(pairs)
    texts = response_texts(job.load_rows(), pairs, responses)
    prompt_of = texts.prompt_of
    if not (draws := draws_for(job.config, pairs, prompt_of)):  # only prompts that are cut had so many
        return None
    proposal = proposal_of(pairs, responses, asked.proposal_correction)
    preferred = draw_preferred(rewards, table, proposal, draws, asked, seed=job.config.seed, prompt_of=prompt_of)
    chosen = preferred.pairs.chosen
    worth_it = has_several(prompt_of)[chosen]
    preferred = preferred.times(weight_of_prompts(pairs, table)[table.prompt_of[chosen]] * worth_it)
    if not len(preferred.weight):
        print("no preferred pairs: the rewards of no cluster say anything of its labels")
        return None
    return preferred, texts


def _report(job: PipelineJob, weights: PairWeights, rewards: PairRewards, drawn: Drawn | None) -> None:
    rows, row = job.load_rows(), job.load_pairs().row
    report = weight_report(weights, rewards, texts=lambda pair: _text(rows, int(row[pair])))
    lines = report_lines(report)
    if drawn is not None:
        preferred, texts = drawn
        report["preferred"] = preferred_report(preferred, job.read_table(), weights.label_smoothing, texts.of_pair)
        lines += preferred_lines(report["preferred"])
        save_preferred_plot(job.folder.preferred, report["preferred"])
    for line in lines:
        print(line)
    save_json(job.folder.weight_report, report)
    save_histogram(job.folder.histogram, report)


def _samples(job: PipelineJob, weight: np.ndarray, drawn: Drawn | None) -> ReferenceSamples:
    """What the reference said, for the forward KL of labelled and drawn pairs."""
    pairs, table = job.load_pairs(), job.read_table()
    prompt = table.prompt
    if drawn is not None:
        prompt = np.concatenate([prompt, table.prompt_of[drawn[0].pairs.chosen]])
        weight = np.concatenate([weight, drawn[0].weight])
    samples = reference_samples(pairs, table, prompt, weight)
    prompts = len(np.unique(table.prompt[samples.pair]))
    print(
        f"forward KL on {len(samples.pair):,} samples of the reference that ended, to {prompts:,} of "
        f"{len(np.unique(prompt)):,} prompts"
    )
    return samples


def _write(
    job: PipelineJob, columns: Columns, scores: Columns, drawn: Drawn | None, samples: ReferenceSamples | None
) -> None:
    """The labelled pairs, with the columns and their scores, and behind them drawn pairs and samples."""
    rows, pairs, table = job.load_rows(), job.load_pairs(), job.read_table()
    pair_cluster = job.read_prompt_clusters()[table.prompt]
    columns = columns | _score_columns(pair_cluster, table.chosen, table.rejected, scores)
    if drawn is None:
        reference = {name: values[pairs.row] for name, values in rows.columns.items() if name.startswith("ref_")}
        written, lines, columns = rows.without_candidates().take(pairs.row), pairs.row, reference | columns
    else:
        preferred, texts = drawn
        written = with_preferred(rows, pairs, preferred, texts)
        lines = np.concatenate([pairs.row, texts.row[preferred.pairs.chosen]])
        columns = _with_drawn(job, columns, scores, preferred)
    if samples is not None:
        written = together([written, samples.rows(rows, pairs)], [1.0, 1.0])
        lines = np.concatenate([lines, pairs.row[samples.pair]])
        columns = samples.behind(columns, pair_cluster)
    write_rows(job.folder.weighted, written, columns)
    save_lines(job.folder.weighted, job.folder.prepared, lines)


def _with_drawn(job: PipelineJob, columns: Columns, scores: Columns, preferred: Preferred) -> Columns:
    """Columns of the labelled pairs, and behind them those of the drawn ones."""
    table, prompt_cluster = job.read_table(), job.read_prompt_clusters()
    chosen, rejected, flip = preferred.pairs
    behind = {"weight": preferred.weight, "label_smoothing": flip, "drawn": np.ones(len(flip), dtype=np.int64)}
    behind |= _score_columns(prompt_cluster[table.prompt_of[chosen]], chosen, rejected, scores)
    # A column takes the place of the objective's setting, for the labelled pairs too.
    columns.setdefault("label_smoothing", np.full(len(table), job.config.objective.label_smoothing))
    columns["drawn"] = np.zeros(len(table), dtype=np.int64)
    return {name: np.concatenate([values, behind[name]]) for name, values in columns.items()}


def _weight_settings(config: RunConfig, pairs: Pairs) -> WeightConfig:
    """`weights`, without `auto` soft labels where the data bring others or there is no room."""
    asked, of_data = config.weights, pairs.label_smoothing
    if asked.soft_labels != "auto" or asked.resolved().soft_labels == 0:
        return asked
    if of_data is not None and of_data.any():
        print("labels stay as the data smooth them; weights.soft_labels replaces that if it is a number or posterior")
    elif not leaves_room(config):
        print("labels stay hard: the objective smooths them or cannot, or rewards are not calibrated")
    else:
        return asked
    return replace(asked, soft_labels=0.0, relative_variance=WeightConfig().relative_variance)


def _weight_columns(pairs: Pairs, weights: PairWeights, soft: bool) -> dict[str, np.ndarray]:
    """Weights are multiplied by those of the data; soft labels replace those of the data."""
    columns = {"weight": weights.weight * pairs.weight}
    if soft:
        columns["label_smoothing"] = weights.label_smoothing
    elif pairs.label_smoothing is not None:
        columns["label_smoothing"] = pairs.label_smoothing
    return columns


def _score_columns(cluster: np.ndarray, chosen: np.ndarray, rejected: np.ndarray, scores: Columns) -> Columns:
    """Of pairs of responses, with the cluster of their prompt."""
    calibrated, members, raw = scores["calibrated"], scores["members_calibrated"], scores["raw"].mean(1)
    return {
        "cluster": cluster,
        "score_chosen": calibrated[chosen],
        "score_rejected": calibrated[rejected],
        "scores_chosen": members[chosen],
        "scores_rejected": members[rejected],
        "raw_score_chosen": raw[chosen],
        "raw_score_rejected": raw[rejected],
    }


def _text(rows: Rows, row: int) -> dict[str, str]:
    parts = {"prompt": rows.prompt, "chosen": rows.chosen, "rejected": rows.rejected}
    return {name: "\n".join(contents(part[row])) for name, part in parts.items()}
