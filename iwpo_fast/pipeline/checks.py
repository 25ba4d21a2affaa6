"""What would stop a stage late and can be told before the first one works, and in a dry run."""

from __future__ import annotations

from transformers import AutoConfig

from iwpo_fast.config import RunConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.rows import RowSplits
from iwpo_fast.models import load_tokenizer
from iwpo_fast.models.load import check_on_device, model_location
from iwpo_fast.pipeline.context import Context
from iwpo_fast.rewards.kmeans import choose_backend

NO_SCORES = (
    "rewards.source is columns but the data have no score_chosen and score_rejected: add them, or set rewards.source "
    "to features."
)


def read_data(config: RunConfig) -> RowSplits:
    """The rows that the stage `prepare` brings into one form.

    Raises:
        ValueError: they cannot be read, or lack scores that are to be the rewards.
    """
    source = read_rows(config.data)
    if config.rewards.source == "columns" and "score_chosen" not in source.train.columns:
        raise ValueError(NO_SCORES)
    return source


def check_data(context: Context) -> None:
    """Read the data in a dry run; in any other, `prepare` reads them at once."""
    if context.config.dry_run:
        read_data(context.config)


def check_model(context: Context) -> None:
    """Raise ValueError if there is no model to train, by its tokenizer, or attention as asked for."""
    model = context.config.model
    check_on_device(model, context.world.device)
    if model.path != "tiny":
        load_tokenizer(model, ())


def check_backend(context: Context) -> None:
    """Raise ValueError if the k-means that is asked for cannot run here."""
    choose_backend(context.config.clusters.backend)


def check_reward_model(context: Context) -> None:
    """Raise ValueError if `rewards.model` is no model, or has several labels, by its config.json."""
    path = context.config.rewards.model
    if path is None:
        return
    try:
        labels = AutoConfig.from_pretrained(model_location(path)).num_labels
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"rewards.model {path} is neither a folder nor a hub id of a model: give a sequence classifier with its "
            "tokenizer."
        ) from error
    if labels != 1:
        raise ValueError(f"rewards.model {path} has {labels} labels: give a reward model with one.")
