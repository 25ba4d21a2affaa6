"""One pass of the frozen model: log-probs of every completion, and features of prompts and completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from iwpo_fast.config import RunConfig
from iwpo_fast.data.columns import REFERENCE
from iwpo_fast.data.ledger import counted
from iwpo_fast.data.tokenise import TOKEN_SETTINGS
from iwpo_fast.files import save_tensors
from iwpo_fast.models import load_tokenizer
from iwpo_fast.models.load import check_on_device
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result, content_of, sections
from iwpo_fast.rewards.features import PairFeatures, features_key
from iwpo_fast.training.reference_columns import refuse_stale

WHAT = "log-probs and features of the frozen model"
NEEDS = ("prepare", "sample")


def settings(config: RunConfig) -> dict[str, Any]:
    """What any pass of the model over tokenised pairs depends on."""
    data = config.data
    tokens = {name: getattr(data, name) for name in (*TOKEN_SETTINGS, "on_prefix_mismatch")}
    content = [content_of(place) for place in (config.model.path, config.model.adapter, data.chat_template) if place]
    return {"tokens": tokens, "content": content} | sections(config, "model", "seed")


def outputs(folder: PipelineFolder) -> list[Path]:
    return [folder.table]


def check(job: PipelineJob) -> None:
    """Raise ValueError if the model has no tokenizer here, or cannot have the attention that is asked for."""
    model = job.config.model
    check_on_device(model, job.world.device)
    if model.path != "tiny":
        load_tokenizer(model, ())


def on_all_ranks(job: PipelineJob) -> tuple[PairFeatures, str]:
    """Features of the training pairs and their key; log-probs, and what held-out pairs need, go into the cache."""
    tuning = job.config.rewards.tuning
    if tuning is not None and job.world.is_main:
        job.new_policy(tuning.lora)  # so that an adapter that does not fit is refused before the pass
    features, held_out = job.load_features(), job.load_held_out()
    if held_out is not None:
        job.features(held_out)
    _check_reference_columns(job, features)
    return features, features_key(job.load_policy(), job.load_pairs())


def run(job: PipelineJob, features_and_key: tuple[PairFeatures, str]) -> Result:
    features, key = features_and_key
    columns = {name: torch.from_numpy(values) for name, values in vars(features.table).items()}
    # The table names the pass, so that stages that read it are done again when the features have changed.
    save_tensors(job.folder.table, columns, {"features": key})
    result: Result = {"pairs": len(features.table), "prompts": len(features.prompt)}
    result |= {"responses": len(features.response), "ledger": job.load_ledger().as_json()}
    counts = job.load_ledger().candidates
    if not counts:
        return result
    print(f"candidates: {counted(counts)}")
    return result | {"candidates": counts}


def _check_reference_columns(job: PipelineJob, features: PairFeatures) -> None:
    """Compare the log-probs that the data bring with those of the pass, which training would find stale only later."""
    pairs, table = job.load_pairs(), features.table
    if not job.config.self_test or REFERENCE[0] not in pairs.columns:
        return
    assert features.mean_logps is not None, "a pass of the model gives log-probs"
    sides = ((table.chosen, pairs.chosen), (table.rejected, pairs.rejected))
    own = np.stack([features.mean_logps[response] * tokens.lengths for response, tokens in sides], axis=1)
    refuse_stale(pairs, own, job.load_rows(), job.load_policy().compute_dtype)
