"""Rules between the settings of a configuration, each a sentence on what is set, why it cannot work, and what to set.

What a single setting may be stands beside its field (`iwpo_fast.limits`). What depends on data, on a model or on the
processes of a job is checked where these are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from importlib.util import find_spec
from math import inf
from operator import attrgetter
from pathlib import Path
from typing import Any

from iwpo_fast.config import (
    EVEN,
    CandidateConfig,
    CategoryConfig,
    DataConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PessimismConfig,
    RewardConfig,
    RunConfig,
    TinyConfig,
    TrainConfig,
    WeightConfig,
)
from iwpo_fast.data import cache_folder
from iwpo_fast.extras import check_installed
from iwpo_fast.files import check_folder
from iwpo_fast.hub import check_push
from iwpo_fast.limits import check_limits
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.terminal import escaped

OF_CATEGORIES = tuple(f"categories.{setting.name}" for setting in fields(CategoryConfig))
"""Settings of rewards that only distributions over grades read."""

OF_HEADS = (
    *("likelihood", "ridge", "residual", "heads", "preference_dimension", "centring"),
    *("overlap", "folds", "ensemble", *OF_CATEGORIES),
)
"""Settings of rewards that only heads read."""

OF_CALIBRATION = ("calibration_strength", "max_reward")
"""Settings of rewards that only their calibration reads."""

OF_ALL = {"truncate", "defensive", "realisation", "min_ess", "force"}
READ_BY = {
    "irpss": OF_ALL
    | {"tau", "gamma", "ess_target"}
    | {f"experimental.{name}" for name in ("rejected_exponent", "baseline", "selection")},
    "density_ratio": OF_ALL | {"experimental.ratio_scale"},
    "rejection": OF_ALL | {"experimental.ratio_scale", "experimental.ratio_alpha"},
    "madpo": OF_ALL | {f"experimental.madpo_{name}" for name in ("factor", "turn", "sharpness")},
    "selective": OF_ALL | {"experimental.selected_share"},
    "none": set[str](),
}
"""Settings of weights that each formula reads."""


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
    _check_held_out(config.data)
    check_model_settings(config.model)
    _check_trust(config)
    _check_optim(config.optim, "optim")
    _check_sharding(config)
    _check_context(config)
    _check_objective(config.objective)
    _check_reference(config)
    _check_log(config)
    _check_best(config)
    _check_plan(config)
    if isinstance(config, RunConfig):
        _check_candidates(config)
        _check_clusters(config)
        check_reward_settings(config.rewards)
        check_weight_settings(config.weights)
        _check_held_out_losses(config)
        _check_soft_labels(config)
        _check_preferred_pairs(config)
        _check_arms(config)
    if config.push_to_hub is not None:
        check_push(config.push_to_hub)
    check_folder("output_dir", Path(config.output_dir))
    check_folder("data.cache_dir", cache_folder(config.data))


def check_tiny(tiny: TinyConfig) -> None:
    """Raise ValueError if the shape of the built-in model is not one that a Llama can have."""
    check_limits(tiny, "model.tiny")
    if tiny.hidden_size % 32 or tiny.hidden_size % (2 * tiny.heads):
        raise ValueError(
            f"model.tiny.hidden_size is {tiny.hidden_size}: set a multiple of 32 and of twice "
            f"model.tiny.heads ({tiny.heads})."
        )


def _check_candidates(config: RunConfig) -> None:
    candidates, longest = config.candidates, config.data.max_length
    if not candidates.per_prompt:
        for name, value in vars(candidates).items():
            if value != getattr(CandidateConfig(), name):
                raise ValueError(
                    f"candidates.{name} is {value} and candidates.per_prompt is 0, so nothing is drawn: set "
                    f"per_prompt, or leave {name} out."
                )
        return
    if candidates.max_new_tokens >= longest:
        raise ValueError(
            f"candidates.max_new_tokens is {candidates.max_new_tokens} and data.max_length is {longest}, which leaves "
            "no token for a prompt: lower the first, or raise the second."
        )
    if config.rewards.source == "columns":
        raise ValueError(
            f"candidates.per_prompt is {candidates.per_prompt} and rewards.source is columns, and what is drawn has no "
            "scores there: set rewards.source to features or model, or per_prompt to 0."
        )
    if candidates.backend == "vllm":
        check_installed("vllm", "candidates.backend is vllm", extra="vllm")
        if config.model.quantize != "none":
            raise ValueError(
                f"candidates.backend is vllm and model.quantize is {config.model.quantize}, and vLLM would draw from "
                "the model as it is without: set candidates.backend to transformers."
            )
        if config.model.adapter is not None:
            raise ValueError(
                f"candidates.backend is vllm and model.adapter is {config.model.adapter}, and vLLM would draw from the "
                "model without it: set candidates.backend to transformers."
            )


def check_model_settings(model: ModelConfig) -> None:
    """Raise ValueError for the first setting that cannot work, whatever the device and the model."""
    check_limits(model, "model")
    if model.path == "tiny":
        check_tiny(model.tiny)
        if model.revision is not None:
            raise ValueError(f"model.revision is {model.revision} but the tiny model has none: leave it out.")
    if model.batch_layout == "padded":
        _check_padded(model)
    if model.offload_activations and model.gradient_checkpointing != "full":
        raise ValueError(
            f"model.offload_activations is true but model.gradient_checkpointing is {model.gradient_checkpointing}, "
            "and only inputs of layers are moved: set gradient_checkpointing to full, or leave offload_activations out."
        )
    if model.compile and model.gradient_checkpointing == "selective":
        raise ValueError(
            "model.gradient_checkpointing is selective and model.compile is true, but compiled layers recompute their "
            "cheap operations already: set gradient_checkpointing to none or full, or compile to false."
        )
    if model.neftune_alpha is not None and model.share_prompts is True:
        raise ValueError(
            f"model.neftune_alpha is {model.neftune_alpha} and model.share_prompts is true, but its noise is of each "
            "sequence alone, the prompt included: set share_prompts to auto or false, or leave neftune_alpha out."
        )
    if model.quantize != "none":
        _check_quantize(model)
    if model.adapter is not None and model.path == "tiny":
        raise ValueError(
            f"model.adapter is {model.adapter} but the tiny model has new weights, on which no adapter was trained: "
            "leave it out, or set model.path to the adapter's base."
        )
    if model.lora is not None:
        _check_lora(model.lora, "model.lora")


def _check_trust(config: TrainConfig) -> None:
    others = config.rewards.model if isinstance(config, RunConfig) else None
    if config.model.trust_remote_code and config.model.path == "tiny" and others is None:
        raise ValueError(
            "model.trust_remote_code is true but the tiny model brings no code: leave model.trust_remote_code out."
        )


def check_reward_settings(rewards: RewardConfig) -> None:
    """Raise ValueError where a setting cannot be, or goes with another source of rewards."""
    check_limits(rewards, "rewards")
    source, tuning = rewards.source, rewards.tuning
    if (source in ("model", "iwpo")) != (rewards.model is not None):
        raise ValueError(
            f"rewards.source is {source} and rewards.model is {rewards.model}: a model goes with the "
            "sources model and iwpo, and with no other."
        )
    if tuning is not None and source != "features":
        raise ValueError(
            f"rewards.tuning is set and rewards.source is {source}: it goes with the source features, and with no "
            "other."
        )
    if tuning is not None and rewards.overlap:
        raise ValueError(
            f"rewards.overlap is {rewards.overlap} and rewards.tuning is set: tuning compares the two responses of a "
            "pair alone, so set rewards.overlap to 0 or leave rewards.tuning out."
        )
    if rewards.heads in ("mlp", "gpm", "dprm") and (rewards.overlap or tuning is not None):
        other = "tuning is set" if tuning is not None else f"overlap is {rewards.overlap}"
        raise ValueError(
            f"rewards.heads is {rewards.heads} and rewards.{other}, which is for linear heads alone: set "
            "rewards.heads to linear or auto, or leave the other out."
        )
    if source != "features":
        reason = f"rewards.source is {source}, which learns no heads"
        _refuse_unread(rewards, "rewards", OF_HEADS, reason, "set rewards.source to features")
    if rewards.heads != "gpm":
        reason = f"rewards.heads is {rewards.heads}, which embeds nothing"
        _refuse_unread(rewards, "rewards", ["preference_dimension"], reason, "set rewards.heads to gpm")
    if rewards.heads != "dprm":
        reason = f"rewards.heads is {rewards.heads}, which reads no grades"
        _refuse_unread(rewards, "rewards", OF_CATEGORIES, reason, "set rewards.heads to dprm")
    elif rewards.categories.loss == "cross_entropy":
        reason = "rewards.categories.loss is cross_entropy, which moves nothing"
        _refuse_unread(rewards.categories, "rewards.categories", ["cost_exponent"], reason, "set loss to transport")
    if rewards.heads == "gpm" and rewards.preference_dimension % 2:
        raise ValueError(
            f"rewards.preference_dimension is {rewards.preference_dimension}, and preferences turn in planes of two "
            "dimensions: give an even number."
        )
    if source == "iwpo":
        reason = "rewards.source is iwpo, whose scores are calibrated already"
        _refuse_unread(rewards, "rewards", ("calibration", *OF_CALIBRATION), reason, "choose another source")
    if not rewards.calibration:
        reason = "rewards.calibration is false, which leaves rewards as they are"
        _refuse_unread(rewards, "rewards", OF_CALIBRATION, reason, "set rewards.calibration to true")
    if rewards.pessimism is not None:
        _check_pessimism(rewards, rewards.pessimism)
    if tuning is not None:
        _check_optim(tuning.optim, "rewards.tuning.optim")
        _check_lora(tuning.lora, "rewards.tuning.lora")
        if tuning.lora.modules_to_save:
            raise ValueError(
                f"rewards.tuning.lora.modules_to_save is {tuning.lora.modules_to_save}, but rewards are tuned by "
                "update matrices alone: leave it out."
            )


def _check_pessimism(rewards: RewardConfig, asked: PessimismConfig) -> None:
    """Refuse pessimism without heads, features or members that it could read, and settings that its form does not."""
    if rewards.source != "features":
        raise ValueError(
            f"rewards.pessimism is set and rewards.source is {rewards.source}, which learns no heads on features: "
            "leave rewards.pessimism out, or set rewards.source to features."
        )
    if asked.form == "minimum":
        reason = "rewards.pessimism.form is minimum"
        _refuse_unread(asked, "rewards.pessimism", ("scale", "ridge"), reason, "set form to bonus")
        if rewards.ensemble == 1:
            raise ValueError(
                "rewards.pessimism.form is minimum and rewards.ensemble is 1, which has no other members: raise "
                "rewards.ensemble, or set rewards.pessimism.form to bonus."
            )
    elif rewards.tuning is not None:
        raise ValueError(
            "rewards.pessimism.form is bonus and rewards.tuning is set, which moves the features that the bonus reads: "
            "set rewards.pessimism.form to minimum, or leave rewards.tuning out."
        )


def check_weight_settings(weights: WeightConfig) -> None:
    """Raise ValueError for the first setting that cannot work, or that the formula does not read."""
    check_limits(weights, "weights")
    formula, other = weights.formula, weights.experimental.method
    if other is not None and weights.method == "none":
        raise ValueError(
            f"weights.experimental.method is {other} and weights.method is none, and only one of them can be: leave "
            "one of them out."
        )
    setting = "weights.method" if other is None else "weights.experimental.method"
    by_form = f" by weights.form {weights.form}" if other is None and weights.method == "auto" else ""
    # The draws read a number for the temperature, whatever weighs pairs (`preferred.target_temperature`).
    of_draws = {"tau"} if weights.resolved().preferred_pairs and not isinstance(weights.tau, str) else set[str]()
    unread = sorted(set().union(*READ_BY.values()) - READ_BY[formula] - of_draws)
    reason = f"{setting} is {formula}{by_form}, which does not read it"
    _refuse_unread(weights, "weights", unread, reason, "choose another method")
    if formula == "irpss":
        _check_temperature(weights)
    _check_doubt(weights)


def _check_doubt(weights: WeightConfig) -> None:
    """Refuse settings of posterior labels and of preferred pairs that nothing reads, or that exclude one another."""
    resolved, variance = weights.resolved(), weights.relative_variance
    soft_labels, preferred = resolved.soft_labels, resolved.preferred_pairs
    if not preferred:
        reason = "weights.preferred_pairs is 0, which draws no pairs"
        _refuse_unread(weights, "weights", ("opponent", "proposal_correction"), reason, "set preferred_pairs")
    elif variance == inf:
        raise ValueError(
            f"weights.relative_variance is inf and weights.preferred_pairs is {preferred}, but pairs are drawn by the "
            "rewards, which it does not believe at all: set relative_variance to a number, or preferred_pairs to 0."
        )
    if soft_labels != "posterior" and not preferred and variance != WeightConfig().relative_variance:
        raise ValueError(
            f"weights.relative_variance is {variance} and weights.soft_labels is {soft_labels}, which does not read "
            "it: set soft_labels to posterior, or leave relative_variance out."
        )


def _check_temperature(weights: WeightConfig) -> None:
    """Refuse a temperature, its target, or a term beside it that would be set and have no effect."""
    weights = weights.resolved()
    tau, target = weights.tau, weights.ess_target
    if tau != "ess":
        if target != "noise":
            raise ValueError(
                f"weights.ess_target is {target} and weights.tau is {tau}, which keeps to no target: leave "
                "weights.ess_target out, or set weights.tau to ess."
            )
        return
    for name in ("gamma", "experimental.rejected_exponent", "experimental.selection"):
        value = attrgetter(name)(weights)
        if value not in (0, "none") and (isinstance(target, str) or target >= EVEN):
            raise ValueError(
                f"weights.{name} is {value} and weights.ess_target is {target}, which can make all weights 1 whatever "
                f"the {name}: set weights.ess_target to a number below {EVEN}, or weights.tau to a number."
            )


def _check_held_out_losses(config: RunConfig) -> None:
    rewards = config.rewards
    if config.weights.formula == "selective" and rewards.source == "features" and rewards.folds == 1:
        raise ValueError(
            "weights.experimental.method is selective and rewards.folds is 1, so that the loss of a pair would be that "
            "of heads which have seen its label: set rewards.folds to 2 or more."
        )


def _check_soft_labels(config: RunConfig) -> None:
    asked, objective = config.weights.soft_labels, config.objective
    if asked not in ("auto", 0) and not Mixture.of(objective).smooths_labels:
        raise ValueError(
            f"weights.soft_labels is {asked} but the objective {objective.name} cannot smooth labels or does not "
            "read them: set weights.soft_labels to 0 or auto, or choose another objective."
        )
    if asked == "grades" and config.rewards.heads != "dprm":
        raise ValueError(
            f"weights.soft_labels is grades and rewards.heads is {config.rewards.heads}, which knows of no grades: set "
            "rewards.heads to dprm, or soft_labels to posterior."
        )
    if asked == "posterior" and not config.rewards.calibration:
        raise ValueError(
            "weights.soft_labels is posterior and rewards.calibration is false, but a posterior needs rewards in "
            "log-odds: set calibration to true, or soft_labels to a number."
        )


def leaves_room(config: RunConfig) -> bool:
    """Whether `auto` may soften labels: the objective can smooth them and does not yet, and rewards are calibrated."""
    mixture = Mixture.of(config.objective)
    smooths_already = mixture.has_smoothing or config.objective.label_smoothing > 0
    return config.rewards.calibration and mixture.smooths_labels and not smooths_already


def _check_preferred_pairs(config: RunConfig) -> None:
    weights, candidates = config.weights, config.candidates
    asked, correction = weights.preferred_pairs, weights.proposal_correction
    if asked not in ("auto", 0):
        if not Mixture.of(config.objective).smooths_labels:
            raise ValueError(
                f"weights.preferred_pairs is {asked} but the objective {config.objective.name} cannot smooth labels or "
                "does not read them, and drawn pairs have soft ones: set preferred_pairs to 0 or auto, or choose "
                "another objective."
            )
        if not config.rewards.calibration:
            raise ValueError(
                f"weights.preferred_pairs is {asked} and rewards.calibration is false, but drawn pairs are labelled by "
                "rewards in log-odds: set calibration to true, or preferred_pairs to 0."
            )
    if correction and candidates.per_prompt == 0:
        raise ValueError(
            f"weights.proposal_correction is {correction} and candidates.per_prompt is 0, so no candidate comes from a "
            "known sampler: set per_prompt, or proposal_correction to 0."
        )
    if correction and candidates.temperature == candidates.top_p == 1:
        raise ValueError(
            f"weights.proposal_correction is {correction}, and candidates.temperature and top_p are 1, so there is "
            "nothing to correct: set proposal_correction to 0."
        )


def _check_arms(config: RunConfig) -> None:
    """Refuse arms that could not be trained, or would have nothing to be compared with."""
    arms = config.arms
    if not arms:
        return
    if len(set(arms)) < len(arms):
        raise ValueError(f"arms names {', '.join(arms)}, one of them twice: name each once.")
    if "dpo" not in arms:
        raise ValueError(f"arms names {', '.join(arms)}, and all are compared with dpo: name dpo too.")
    if _holds_nothing_out(config):
        raise ValueError(
            "arms are compared on held-out pairs, and data.eval_fraction is 0: set it to more, name data.eval_path, or "
            "leave arms out."
        )
    softens = [name for name in arms if name in ("labels", "both")]
    if softens and not (Mixture.of(config.objective).smooths_labels and config.rewards.calibration):
        raise ValueError(
            f"arms names {' and '.join(softens)}, which need calibrated rewards and an objective that can smooth "
            f"labels, as {config.objective.name} with rewards.calibration {config.rewards.calibration} is not: leave "
            "them out."
        )


def _check_clusters(config: RunConfig) -> None:
    clusters = config.clusters
    if clusters.fit_prompts < clusters.count:
        raise ValueError(
            f"clusters.fit_prompts is {clusters.fit_prompts} and clusters.count is {clusters.count}, and every cluster "
            "needs a prompt to be fitted on: raise fit_prompts, or lower count."
        )
    if clusters.method == "mixture":
        _check_mixture(config)
    if clusters.count == 1 and config.rewards.residual is not None:
        reason = "clusters.count is 1, and a single cluster has no residual"
        _refuse_unread(config.rewards, "rewards", ["residual"], reason, "raise clusters.count")


def _check_mixture(config: RunConfig) -> None:
    if config.rewards.source != "features":
        raise ValueError(
            f"clusters.method is mixture and rewards.source is {config.rewards.source}, but a mixture is learnt with "
            "heads on features: set clusters.method to kmeans, or rewards.source to features."
        )
    if config.clusters.count == 1:
        raise ValueError(
            "clusters.method is mixture and clusters.count is 1, and one cluster has no gate: raise clusters.count, or "
            "set clusters.method to kmeans."
        )


def _check_held_out(data: DataConfig) -> None:
    """Refuse a fraction to hold out that is not held out; 0 is what holds beside evaluation data that are named."""
    for name in ("eval_path", "eval_split"):
        value = getattr(data, name)
        if value is not None and data.eval_fraction not in (0, DataConfig.eval_fraction):
            raise ValueError(
                f"data.eval_fraction is {data.eval_fraction} and data.{name} is {value}, which alone is held out then: "
                f"set data.eval_fraction to 0, or leave data.{name} out."
            )


def _check_padded(model: ModelConfig) -> None:
    if model.share_prompts is True:
        raise ValueError(
            "model.share_prompts is true but model.batch_layout is padded, where every sequence has its own "
            "prompt: set batch_layout to auto or flat, or share_prompts to auto or false."
        )
    if model.attention != "auto":
        raise ValueError(
            f"model.attention is {model.attention} but model.batch_layout is padded, where the model's own "
            "attention runs: set batch_layout to auto or flat, or attention to auto."
        )


def _check_quantize(model: ModelConfig) -> None:
    if model.lora is not None and model.adapter is not None:
        raise ValueError(
            f"model.quantize is {model.quantize}, into which model.adapter cannot be merged without loss: leave "
            "model.lora out to train that adapter further, or merge it into the original first (iwpo merge)."
        )
    if model.lora is None and model.adapter is None:
        raise ValueError(
            f"model.quantize is {model.quantize} but all weights are trained, and quantised weights cannot be: "
            "set model.lora, or quantize to none."
        )
    if model.path == "tiny":
        raise ValueError(
            f"model.quantize is {model.quantize} but the tiny model is made, not read, and is small as it is: "
            "set quantize to none, or model.path to a saved model."
        )
    if model.compile:
        raise ValueError(
            f"model.quantize is {model.quantize} and model.compile is true, but products with quantised weights do not "
            "compile in reasonable time: set compile to false, or quantize to none."
        )
    check_installed("bitsandbytes", f"model.quantize is {model.quantize}", extra="qlora")


def _check_lora(lora: LoraConfig, name: str) -> None:
    if isinstance(lora.target_modules, str):
        try:
            re.compile(lora.target_modules)
        except re.error as error:
            raise ValueError(
                f"{name}.target_modules {lora.target_modules!r} is no regular expression ({error}): "
                "correct it, or give a list of names, or all-linear."
            ) from None


def _check_objective(objective: ObjectiveConfig) -> None:
    alpha = objective.divergence_alpha
    if alpha is not None and objective.divergence != "alpha":
        raise ValueError(
            f"objective.divergence_alpha is {alpha} but objective.divergence is {objective.divergence}: set that to "
            "alpha, or leave divergence_alpha out."
        )
    Mixture.of(objective)


def _check_reference(config: TrainConfig) -> None:
    given, sync, name = config.model.reference, config.reference_sync, config.objective.name
    settings = {"model.reference": given, "reference_sync": sync and f"{sync.alpha} every {sync.steps} steps"}
    for setting, value in settings.items() if not Mixture.of(config.objective).uses_reference else ():
        if value is not None:
            raise ValueError(
                f"{setting} is {value} and the objective {name} reads no reference: leave {setting} out, or choose "
                "another objective."
            )
    if sync is not None and given is not None:
        raise ValueError(
            f"model.reference is {given} and reference_sync is set, but what moves is the policy as it was at first: "
            "leave one of the two out."
        )
    if sync is not None and sync.alpha != 1 and (config.model.lora or config.model.adapter) is not None:
        raise ValueError(
            f"reference_sync.alpha is {sync.alpha} and an adapter is trained, of which the mean of two is not the mean "
            "of what they do: set reference_sync.alpha to 1, or train all weights."
        )
    if given == "tiny":
        raise ValueError("model.reference is tiny, which has random weights: give the folder or the id of a model.")


def _check_optim(optim: OptimConfig, name: str) -> None:
    if optim.name == "adamw_8bit":
        check_installed("bitsandbytes", f"{name}.name is adamw_8bit", extra="8bit")
    if optim.schedule == "constant":
        reason = f"{name}.schedule is constant, which stays at its peak"
        _refuse_unread(optim, name, ["min_lr_fraction"], reason, "choose another schedule")


def _check_sharding(config: TrainConfig) -> None:
    if config.shard_over == 1:
        return
    if config.optim.name == "adamw_8bit":
        raise ValueError(
            f"optim.name is adamw_8bit but shard_over is {config.shard_over}, and bitsandbytes knows no sharded "
            "parameters: set optim.name to adamw, whose moments are sharded, or shard_over to 1."
        )
    if config.model.quantize != "none":
        raise ValueError(
            f"model.quantize is {config.model.quantize} but shard_over is {config.shard_over}, and quantised weights "
            "cannot be sharded: set shard_over to 1, or quantize to none."
        )


def _check_context(config: TrainConfig) -> None:
    processes, model = config.context_parallel, config.model
    if processes == 1:
        return
    if model.batch_layout == "padded":
        raise ValueError(
            f"context_parallel is {processes} and model.batch_layout is padded, but only flat batches are split: set "
            "batch_layout to auto or flat, or context_parallel to 1."
        )
    if model.neftune_alpha is not None:
        raise ValueError(
            f"context_parallel is {processes} and model.neftune_alpha is {model.neftune_alpha}, but the noise of a "
            "sequence is drawn in one process: leave neftune_alpha out, or set context_parallel to 1."
        )


def _check_log(config: TrainConfig) -> None:
    log = config.log
    for name in log.trackers:
        if find_spec(name) is None:
            raise ValueError(f"log.trackers names {name}, which is not installed: pip install {name}.")
    if not {"wandb", "trackio"} & set(log.trackers):
        reason = "log.trackers names neither wandb nor trackio, which alone have one"
        _refuse_unread(log, "log", ["project"], reason, "add one of them")
    if not log.samples:
        reason = "log.samples is 0, so no prompt is answered"
        _refuse_unread(log, "log", ["sample_tokens"], reason, "set log.samples")
    else:
        _check_evaluated(config, "log.samples", log.samples)


def _check_evaluated(config: TrainConfig, setting: str, value: object) -> None:
    """Raise ValueError if the setting is about evaluations while training, and there are none."""
    if isinstance(config, RunConfig) and Mixture.of(config.objective).reads(Reads.SCORES):
        raise ValueError(
            f"{setting} is {value}, but held-out pairs have no scores, which {config.objective.name} reads: leave "
            f"{setting} out."
        )
    if _holds_nothing_out(config):
        raise ValueError(
            f"{setting} is {value}, but nothing is held out: set data.eval_fraction to more than 0, name "
            f"data.eval_path, or leave {setting} out."
        )


def _holds_nothing_out(config: TrainConfig) -> bool:
    data = config.data
    return data.eval_path is None and data.eval_split is None and not data.eval_fraction


def _check_best(config: TrainConfig) -> None:
    kept = config.checkpoint
    if kept.best is None:
        reason = "checkpoint.best is null, so no evaluation is better than another"
        _refuse_unread(kept, "checkpoint", ["patience"], reason, "set checkpoint.best")
        return
    if config.reference_sync is not None:
        raise ValueError(
            f"checkpoint.best is {kept.best} and reference_sync is set, but evaluations on two sides of a move are "
            "against two references, and none is better than the other: leave one of the two out."
        )
    if config.log.eval_every is None:
        raise ValueError(
            f"checkpoint.best is {kept.best} and log.eval_every is null, so there is one evaluation, after the last "
            "step: set log.eval_every, or leave checkpoint.best out."
        )
    _check_evaluated(config, "checkpoint.best", kept.best)


def _check_plan(config: TrainConfig) -> None:
    plan = config.plan
    if plan.on is None:
        _refuse_unread(plan, "plan", ["gpus", "utilisation"], "plan.on is null, which estimates nothing", "set plan.on")
        return
    if not config.dry_run:
        raise ValueError(
            f"plan.on is {plan.on} and dry_run is false, and only a dry run estimates: set dry_run to true, or leave "
            "plan.on out."
        )
    worst, best = plan.utilisation
    if worst > best:
        raise ValueError(f"plan.utilisation is from {worst} to {best}: give the worse share first, such as [0.3, 0.5].")


def _refuse_unread(config: Any, group: str, names: Iterable[str], reason: str, remedy: str) -> None:
    """Raise ValueError for the first of these settings that is not the default, though nothing reads it."""
    for name in names:
        value = attrgetter(name)(config)
        if value != attrgetter(name)(type(config)()):
            raise ValueError(f"{group}.{name} is {value} and {reason}: leave {group}.{name} out, or {remedy}.")
