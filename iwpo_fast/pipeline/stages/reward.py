"""Score every completion, and calibrate the scores.

Scores come from heads on features that never saw the completion's prompt, from columns of the data, from a reward model
of another run, or from a sequence classifier.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from iwpo_fast.config import RunConfig
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.unique import Responses
from iwpo_fast.files import save_json, save_tensors
from iwpo_fast.models.pretrained import read_pretrained
from iwpo_fast.pipeline.external_scores import grades_of_responses, scores_of_responses_in
from iwpo_fast.pipeline.folder import PipelineFolder, files_in
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.learnt_model import describe_model, save_reward_model
from iwpo_fast.pipeline.manifest import Result, content_of, sections
from iwpo_fast.pipeline.response_texts import candidate_texts, response_texts
from iwpo_fast.rewards import (
    PairFeatures,
    PairTable,
    RewardScores,
    report_lines,
    score_pairs,
    scores_of_responses,
)
from iwpo_fast.rewards.calibrated_elsewhere import calibrated_elsewhere
from iwpo_fast.rewards.classifier import WHAT as WHAT_CLASSIFIES
from iwpo_fast.rewards.classifier import check_label, classifier_scores, source_of
from iwpo_fast.rewards.feature_reader import FeatureReader, model_settings, tokenizer_of
from iwpo_fast.rewards.learnt_rewards import Scores
from iwpo_fast.rewards.reward_model import RewardModel
from iwpo_fast.rewards.tuning import tuned_rewards

WHAT = "rewards whose levels can be compared"
NEEDS = ("prepare", "sample", "reference", "cluster")


def settings(config: RunConfig) -> dict[str, Any]:
    model = config.rewards.model
    return sections(config, "rewards", "seed") | ({} if model is None else {"content": content_of(model)})


def outputs(folder: PipelineFolder) -> list[Path]:
    return [folder.rewards, folder.reward_report, *files_in(folder.reward_model)]


def resumes(folder: PipelineFolder) -> Path:
    return folder.tuned


def check(job: PipelineJob) -> None:
    """Raise ValueError if `rewards.model` is no reward model, or its config.json not of a model with a single label."""
    path, trusted = job.config.rewards.model, job.config.model.trust_remote_code
    if path is None:
        return
    if job.config.rewards.source == "iwpo":
        record = RewardModel.load(path).record
        tokenizer_of(record, model_settings(record, trust_remote_code=trusted))
        return
    check_label(read_pretrained(AutoConfig, source_of(path, trusted), WHAT_CLASSIFIES), path)


def on_all_ranks(job: PipelineJob) -> tuple[PairFeatures, dict[str, Any]] | None:
    """Features and the model that they are of, if they are what is scored.

    The device is then free for models that score, or learn to.
    """
    found = (job.load_features(), describe_model(job)) if job.config.rewards.source == "features" else None
    job.free()
    return found


def run(job: PipelineJob, found: tuple[PairFeatures, dict[str, Any]] | None) -> Result:
    table, prompt_cluster = job.read_table(), job.read_prompt_clusters()
    if found is not None:
        scores = _from_features(job, found[0], prompt_cluster)
    elif job.config.rewards.source == "columns":
        scores = _from_columns(job, table, prompt_cluster)
    elif job.config.rewards.source == "iwpo":
        scores = _from_reward_model(job, table, prompt_cluster)
    else:
        scores = _from_model(job, table, prompt_cluster)
    for line in report_lines(scores.report):
        print(line)
    arrays = {name: value for name, value in vars(scores).items() if isinstance(value, np.ndarray)}
    save_tensors(job.folder.rewards, {name: torch.from_numpy(value) for name, value in arrays.items()})
    save_json(job.folder.reward_report, scores.report)
    if found is not None and scores.heads is not None:
        save_reward_model(job, scores, *found)
    shutil.rmtree(job.folder.tuned, ignore_errors=True)
    return scores.report


def _from_features(job: PipelineJob, features: PairFeatures, prompt_cluster: np.ndarray) -> RewardScores:
    """Scores by heads, on a model that is fine-tuned under them if `rewards.tuning` says so."""
    rewards = job.config.rewards
    tune = None
    if rewards.tuning is not None:
        tune = partial(
            tuned_rewards,
            features=features,
            pairs=job.load_pairs(),
            settings=rewards,
            new_policy=partial(job.new_policy, rewards.tuning.lora),
            folder=job.folder.tuned,
        )
    grades = grades_of_responses(job.load_rows(), job.load_pairs()) if rewards.learns_from_votes else None
    return score_pairs(features, prompt_cluster, rewards, seed=job.config.seed, tune=tune, grades=grades)


def _from_columns(job: PipelineJob, table: PairTable, prompt_cluster: np.ndarray) -> RewardScores:
    response, score = scores_of_responses_in(job.load_rows(), job.load_pairs(), job.config.rewards)
    raw = np.empty((len(table.prompt_of), score.shape[1]))
    raw[response] = score
    return scores_of_responses(raw, table, prompt_cluster, job.config.rewards)


def _from_reward_model(job: PipelineJob, table: PairTable, prompt_cluster: np.ndarray) -> RewardScores:
    """Scores by the reward model of another run, which are calibrated already."""
    model = RewardModel.load(str(job.config.rewards.model))
    pairs, rows = job.load_pairs(), job.load_rows().without_candidates().take(job.load_pairs().row)
    trusted = job.config.model.trust_remote_code
    reader = FeatureReader.load(model.record, job.world, trust_remote_code=trusted)
    reader = reader.with_options(None, str(job.cache_dir()))
    alone = None
    if pairs.candidates is not None and len(pairs.candidates):
        texts = candidate_texts(job.load_rows(), pairs)
        alone = replace(rows.take(pairs.candidates.pair), chosen=texts, rejected=texts)
    scores, of_alone = _scores_of(model, reader, rows, alone)
    others = None
    unscored = np.asarray(np.isnan(scores.score).any(axis=1))
    if pairs.candidates is not None and of_alone is not None:
        others = Responses.of(pairs).candidates, of_alone.take((slice(None), 0))
        unscored[pairs.candidates.pair[np.isnan(others[1].score)]] = True
    if unscored.any():
        raise ValueError(
            f"{rows.where(int(np.flatnonzero(unscored)[0]))} (the first of {unscored.sum()}) has no score, because "
            f"the reward model drops what is longer than {model.record['tokens']['max_length']} tokens: leave such "
            "rows out, or set data.max_length to that."
        )
    return calibrated_elsewhere(scores, model.calibration, table, prompt_cluster, others)


def _scores_of(
    model: RewardModel, reader: FeatureReader, rows: Rows, alone: Rows | None
) -> tuple[Scores, Scores | None]:
    """Scores of pairs and of candidates, together where heads compare the responses of a prompt."""
    if alone is None:
        return model.score_rows(rows, reader, model.together(rows)), None
    if not model.compares:
        return model.score_rows(rows, reader), model.score_rows(alone, reader)
    both = Rows(
        rows.source,
        np.concatenate([rows.numbers, alone.numbers]),
        prompt=[*rows.prompt, *alone.prompt],
        chosen=[*rows.chosen, *alone.chosen],
        rejected=[*rows.rejected, *alone.rejected],
        template=None if rows.template is None or alone.template is None else [*rows.template, *alone.template],
        files=rows.files,
    )
    scores = model.score_rows(both, reader, model.together(both))
    return scores.take(slice(len(rows))), scores.take(slice(len(rows), None))


def _from_model(job: PipelineJob, table: PairTable, prompt_cluster: np.ndarray) -> RewardScores:
    """Scores by `rewards.model`, which reads each of the C responses once."""
    model = job.config.rewards.model
    assert model is not None
    rows = job.load_rows()
    texts = response_texts(rows, job.load_pairs(), Responses.of(job.load_pairs()))
    scores = classifier_scores(
        model,
        texts.prompt,
        texts.completion,
        tokens_per_batch=job.config.optim.tokens_per_batch,
        device=job.world.device,
        trust_remote_code=job.config.model.trust_remote_code,
    )
    if (bad := ~np.isfinite(scores)).any():
        raise ValueError(
            f"{rows.where(texts.row[bad.argmax()])} is the first of {bad.sum()} whose response gets a score from "
            f"rewards.model {model} that is not finite: look at the model, or leave such rows out."
        )
    return scores_of_responses(scores[:, None], table, prompt_cluster, job.config.rewards)
