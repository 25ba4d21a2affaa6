"""Read the data, bring them into one form and hold rows out; make the built-in model, if it is the one to train."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iwpo_fast.config import LATER_SETTINGS, DataConfig, RunConfig
from iwpo_fast.data.ledger import counted
from iwpo_fast.data.places import local_files
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.tokenise import TOKEN_SETTINGS
from iwpo_fast.files import written_aside
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.pipeline.folder import PipelineFolder, files_in
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result, content_of, sections
from iwpo_fast.pipeline.origin import origin_of, save_origin
from iwpo_fast.pipeline.rows_file import write_rows
from iwpo_fast.rewards.checks import check_has_scores, reads_scores
from iwpo_fast.world import World

WHAT = "bring the data into one form"
NEEDS = ()


def settings(config: RunConfig) -> dict[str, Any]:
    elsewhere = ("cache_dir", "processes", "workers", *TOKEN_SETTINGS)
    data = {name: value for name, value in asdict(config.data).items() if name not in elsewhere}
    for name in LATER_SETTINGS:
        if name in data and data[name] == getattr(DataConfig(path=""), name):
            del data[name]  # as before there was a choice, so that stages done then stay done
    paths = (config.data.path, config.data.eval_path, *(source.path for source in config.data.mix))
    places = [place for path in paths if path for place in _places(path)]
    made = sections(config, "model", "seed") if config.model.path == "tiny" else {}
    votes = {"votes": True} if config.scores_are_votes else {}
    return {"data": data, "content": [content_of(place) for place in places]} | votes | made


def _given_rows(rows: Rows | None) -> int:
    """Rows of the data that these pairs are of: a row of several candidates makes several."""
    return 0 if rows is None else len(np.unique(rows.numbers))


def _places(path: str | list[str]) -> list[str]:
    """Every file and folder that a path means; a hub id as it is."""
    return [str(file) for file in local_files(path)] or [str(path)]


def outputs(folder: PipelineFolder) -> list[Path]:
    rows = [folder.prepared, folder.held_out]
    return [*rows, *map(origin_of, rows), *files_in(folder.tiny_model)]


def check(job: PipelineJob) -> None:
    """Raise ValueError if the data cannot be read, or lack the scores that are to be the rewards."""
    rows, _ = job.load_given()
    if reads_scores(job.config.rewards):
        check_has_scores(rows.columns, job.config.rewards)


def run(job: PipelineJob) -> Result:
    rows, held_out = job.load_given()
    job.forget_given()
    if job.config.model.path == "tiny":
        _make_tiny_model(job, rows)
    for path, part in ((job.folder.prepared, rows), (job.folder.held_out, held_out)):
        if part is not None:
            write_rows(path, part, part.columns)
            save_origin(path, part)
    result: Result = {"training_rows": len(rows), "held_out_rows": 0 if held_out is None else len(held_out)}
    lost = {"without_one_prompt": rows.mismatches, "without_a_better_answer": rows.unpaired, "unread": rows.unread}
    result |= {name: count for name, count in lost.items() if count}
    given = sum(map(_given_rows, (rows, held_out)))
    if given < result["training_rows"] + result["held_out_rows"]:
        result["rows_with_pairs"] = given
    if rows.candidates is None:
        return result
    counts = rows.candidates.counts
    print(f"candidates of training prompts: {counted(counts)}")
    return result | {"candidates": counts}


def _make_tiny_model(job: PipelineJob, rows: Rows) -> None:
    """Write the model with random weights; a CPU makes it, whatever device it will run on."""
    tokenizer = load_tokenizer(job.config.model, rows.texts())
    plain = replace(
        job.config.model,
        lora=None,
        attention="auto",
        gradient_checkpointing="none",
        offload_activations=False,
        compile=False,
    )
    policy = load_policy(plain, tokenizer, World(0, 1, torch.device("cpu")), seed=job.config.seed)
    with written_aside(job.folder.tiny_model) as aside:
        policy.save(aside, tokenizer)
