"""What the stage `reward` learnt, as a folder that scores other texts."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iwpo_fast.config import ModelConfig
from iwpo_fast.data import clock
from iwpo_fast.data.token_record import token_record
from iwpo_fast.later_settings import without_later
from iwpo_fast.models import Policy
from iwpo_fast.models.pretrained import model_location
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.rewards import Clusters, PairFeatures, RewardScores
from iwpo_fast.rewards.checks import uses_likelihood
from iwpo_fast.rewards.feature_reader import describe_policy
from iwpo_fast.rewards.features import RECIPE
from iwpo_fast.rewards.fold_adapters import adapter_of
from iwpo_fast.rewards.reward_model import RewardModel

ONLY_TRAINING = {"gradient_checkpointing": "none", "offload_activations": False, "neftune_alpha": None}
"""Settings of the model that features do not depend on."""


def describe_model(job: PipelineJob, model: ModelConfig, policy: Policy) -> dict[str, Any]:
    """The language model, by settings that loaded it as `policy`. All ranks that share the policy call it."""
    path, folder = model_location(model.path), job.folder.reward_model.resolve()
    # A model inside `output_dir` moves with it, and its place must not tell where that is.
    inside = Path(path).is_relative_to(job.folder.path.resolve())
    where = {"path": os.path.relpath(path, folder) if inside else path, "inside": inside}
    if model.adapter is not None:
        where["adapter"] = model_location(model.adapter)
    settings = without_later({"model": asdict(model) | ONLY_TRAINING | where})["model"]
    del settings["tiny"], settings["trust_remote_code"]
    return {"settings": settings} | describe_policy(policy)


def save_reward_model(
    job: PipelineJob, scores: RewardScores, features: PairFeatures, language_model: dict[str, Any]
) -> None:
    """Write the heads of `scores`, with what they need to score texts, to the folder of the pipeline.

    Args:
        language_model: as the features were made by it; with `rewards.tuning` scores need it as the folds tuned it.
    """
    assert scores.heads is not None and features.prompt_keys is not None
    adapters, tuning = list[Path](), job.config.rewards.tuning
    if tuning is not None:
        language_model = describe_model(job, job.with_adapter(tuning.lora), job.new_policy(tuning.lora))
        adapters = [adapter_of(job.folder.tuned, fold) for fold in range(scores.heads.folds)]
    model = RewardModel(
        clusters=Clusters.load(job.folder.clusters),
        heads=scores.heads,
        calibration=scores.calibration,
        training_prompts=frozenset(map(str, features.prompt_keys)),
        record=_record(job, features, language_model),
        report=scores.report,
        pessimism=scores.pessimism,
        adapters=adapters,
    )
    model.save(job.folder.reward_model)


def _record(job: PipelineJob, features: PairFeatures, language_model: dict[str, Any]) -> dict[str, Any]:
    config, data = job.config, job.config.data
    template = job.load_tokenizer().chat_template if data.chat_template else None
    return {
        "features": RECIPE | {"likelihood": uses_likelihood(config.rewards)},
        "language_model": language_model,
        "tokens": token_record(data)
        | {"chat_template": template}
        | ({"clock": clock.moment()} if clock.shown(job.load_tokenizer()) else {}),
        "tokens_per_batch": config.optim.tokens_per_batch,
        "seed": config.seed,
        "max_reward": config.rewards.max_reward if _is_clipped(job) else None,
        "pairs": len(features.table),
    }


def _is_clipped(job: PipelineJob) -> bool:
    return job.config.rewards.calibration and job.config.rewards.max_reward < float("inf")
