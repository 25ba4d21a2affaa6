"""Rules of types of annotators."""

from __future__ import annotations

from typing import Any

from iwpo_fast.config import ObjectiveConfig, TrainConfig, TypesConfig
from iwpo_fast.config_checks.held_out import holds_nothing_out
from iwpo_fast.config_checks.unread import refuse_unread
from iwpo_fast.paths import expanded

RANKED = "dpo_ranked"


def check_types(config: TrainConfig) -> None:
    types = config.types
    if types is None:
        return
    _check_adapters(config)
    _check_likelihood(config.objective)
    for setting, value, usual, why in _not_of_several(config):
        if value != usual:
            raise ValueError(f"{setting} is {value} and types is set, but {why}: leave one of the two out.")
    if types.votes == "held_out" and types.count > 1 and holds_nothing_out(config):
        raise ValueError(
            "types.votes is held_out and nothing is held out: set data.eval_fraction to the share of the prompts whose "
            "votes tell annotators apart, such as 0.3, name data.eval_path, or set types.votes to trained."
        )
    if types.start != "clusters" and not expanded(types.start).is_file():
        raise ValueError(
            f"types.start is {types.start}, and no file is there: set clusters, or the path of a JSON file that gives "
            "annotators their types."
        )
    _check_mixture(types, config.data.max_length)


def _check_adapters(config: TrainConfig) -> None:
    lora = config.model.lora
    if lora is None:
        raise ValueError("types trains an adapter for each type, and model.lora is null: set model.lora.rank, say.")
    if lora.modules_to_save:
        raise ValueError(
            f"model.lora.modules_to_save is {lora.modules_to_save} and types is set, but types share all except their "
            "update matrices: leave modules_to_save out."
        )


def _check_likelihood(objective: ObjectiveConfig) -> None:
    """Refuse whatever is not minus the log-likelihood of a vote, pair or ranking, by which types are told."""
    plain = ObjectiveConfig(beta=objective.beta, normalize=objective.normalize)
    if objective.name == RANKED:
        plain.name = RANKED
    for setting in vars(plain):
        value, usual = getattr(objective, setting), getattr(plain, setting)
        if value != usual:
            raise ValueError(
                f"objective.{setting} is {value} and types is set, but annotators are told apart by the likelihood of "
                f"their votes under plain DPO, of pairs or of rankings ({RANKED}): leave objective.{setting} out."
            )


def _not_of_several(config: TrainConfig) -> list[tuple[str, Any, Any, str]]:
    """Settings that are of one policy: name, value, value at which they are off, and why they cannot be on."""
    return [
        ("reference_sync", config.reference_sync, None, "there is no one policy that the reference could follow"),
        ("sampled_kl", config.sampled_kl, None, "there is no one policy that could draw"),
        ("model.reference", config.model.reference, None, "the base of the adapters is the reference"),
        ("model.compile", config.model.compile, False, "layers would be compiled again for every adapter"),
        ("model.quantize", config.model.quantize, "none", "their saved adapters would not tell of its 4 bits"),
        ("shard_over", config.shard_over, 1, "every process holds all adapters whole"),
        ("context_parallel", config.context_parallel, 1, "every process holds all adapters whole"),
        ("log.samples", config.log.samples, 0, "there is no one policy that could answer"),
        ("checkpoint.best", config.checkpoint.best, None, "one evaluation is not the best for all types"),
        ("push_to_hub", config.push_to_hub, None, "there is no one model to send"),
    ]


def _check_mixture(types: TypesConfig, max_length: int) -> None:
    names = ("mixture_tokens", "regret_weights")
    if types.count == 1:
        refuse_unread(types, "types", ("start", "rounds"), "types.count is 1, which leaves nothing to tell", "raise it")
        reason = "types.count is 1, and there is nothing to mix"
        refuse_unread(types, "types", ("mixture_prompts", *names), reason, "raise types.count")
    if not types.mixture_prompts:
        refuse_unread(types, "types", names, "types.mixture_prompts is 0, which makes no mixture", "raise it")
    elif types.count > 1 and types.mixture_tokens >= max_length:
        raise ValueError(
            f"types.mixture_tokens is {types.mixture_tokens} and data.max_length is {max_length}, which leaves no "
            "token for a prompt: lower the first, or raise the second."
        )
    if types.regret_weights and len(types.regret_weights) != types.count:
        raise ValueError(
            f"types.regret_weights has {len(types.regret_weights)} numbers and types.count is {types.count}: give one "
            "for each type, or leave it out."
        )
