"""All rules, in the order in which they are checked."""

from __future__ import annotations

from pathlib import Path

from iwpo_fast.config import RunConfig, TrainConfig
from iwpo_fast.config_checks.arms import check_arms
from iwpo_fast.config_checks.candidates import check_candidates, check_clusters
from iwpo_fast.config_checks.forward_kl import check_forward_kl
from iwpo_fast.config_checks.held_out import check_held_out
from iwpo_fast.config_checks.labels import check_held_out_losses, check_preferred_pairs, check_soft_labels
from iwpo_fast.config_checks.model import check_model_settings, check_trust
from iwpo_fast.config_checks.objective import (
    check_candidates_are_read,
    check_objective,
    check_own_rewards,
    check_reference,
)
from iwpo_fast.config_checks.plan import check_plan
from iwpo_fast.config_checks.rewards import check_reward_settings
from iwpo_fast.config_checks.sampled_kl import check_sampled_kl
from iwpo_fast.config_checks.training import check_best, check_context, check_log, check_optim
from iwpo_fast.config_checks.types import check_types
from iwpo_fast.config_checks.votes import check_votes
from iwpo_fast.config_checks.weights import check_weight_settings
from iwpo_fast.data import cache_folder
from iwpo_fast.files import check_folder
from iwpo_fast.hub import check_push
from iwpo_fast.limits import check_limits
from iwpo_fast.terminal import escaped


def check_config(config: TrainConfig) -> None:
    """Raise ValueError for the first setting that cannot work, with what to set instead.

    Texts of settings are quoted with control characters by their numbers.
    """
    try:
        _check_all(config)
    except ValueError as error:
        said = escaped(str(error))
        if said == str(error):
            raise
        raise ValueError(said) from error


def _check_all(config: TrainConfig) -> None:
    check_limits(config)
    check_held_out(config.data)
    check_model_settings(config.model)
    check_trust(config)
    check_optim(config.optim, "optim")
    check_context(config)
    check_objective(config.objective)
    check_reference(config)
    check_own_rewards(config)
    check_sampled_kl(config)
    check_log(config)
    check_best(config)
    check_plan(config)
    check_types(config)
    if isinstance(config, RunConfig):
        check_candidates_are_read(config)
        check_candidates(config)
        check_clusters(config)
        check_reward_settings(config.rewards)
        check_votes(config)
        check_weight_settings(config.weights)
        check_held_out_losses(config)
        check_soft_labels(config)
        check_preferred_pairs(config)
        check_forward_kl(config)
        check_arms(config)
    if config.push_to_hub is not None:
        check_push(config.push_to_hub)
    check_folder("output_dir", Path(config.output_dir))
    check_folder("data.cache_dir", cache_folder(config.data))
