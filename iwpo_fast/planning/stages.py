"""What each stage of a run will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from iwpo_fast.config import RunConfig, TrainConfig
from iwpo_fast.data.unique import Responses
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.optimisation import optimizer_steps
from iwpo_fast.paths import expanded
from iwpo_fast.planning.counts import (
    alone_work,
    evaluation_work,
    evaluations,
    pass_work,
    self_test_work,
    training_work,
)
from iwpo_fast.planning.draws import sample
from iwpo_fast.planning.figures import Estimate, seconds_of
from iwpo_fast.planning.memory import cache_bytes, pass_memory, training_memory
from iwpo_fast.planning.setting import Setting
from iwpo_fast.planning.work import Work, total
from iwpo_fast.rewards.kmeans import MAX_ITERATIONS
from iwpo_fast.rewards.reward_model_files import adapters_in, load
from iwpo_kernels.linear_token_logps.saving import SAVED_SHARE_OF_MEMORY

MEASURED_RESPONSES, MEASURED_FEATURES = 120_000, 4096
MEASURED_SECONDS = {"linear": 133, "mlp": 219, "auto": 219}
"""CPU seconds of reward heads, four folds of four, in benchmarks/results/reward-networks-amd-epyc.json."""


def prepare(setting: Setting) -> Estimate:
    return Estimate(note="reading and writing on the host, not estimated")


def reference(setting: Setting) -> Estimate:
    """Each response once, of training pairs, candidates and held-out pairs."""
    works = [_pass(setting, setting.run_once)]
    if setting.lengths.held_out is not None:
        works.append(_pass(setting, setting.lengths.held_out))
    note = f"drawn completions: {setting.drawn_tokens} tokens each, assumed" if setting.drawn is not None else ""
    return _forward(setting, *works)._replace(note=note)


def cluster(setting: Setting) -> Estimate:
    assert isinstance(setting.config, RunConfig)
    prompts, width = len(setting.lengths.training.prompts), setting.policy.head.linear.weight.shape[1]
    flops = 2 * min(prompts, setting.config.clusters.fit_prompts) * width * setting.config.clusters.count
    return Estimate(note=f"k-means, at most {MAX_ITERATIONS} iterations of {flops:.1e} FLOP")


def reward(setting: Setting) -> Estimate:
    assert isinstance(setting.config, RunConfig)
    rewards = setting.config.rewards
    if rewards.source == "columns":
        return Estimate(note="scores of the data; calibration on the host takes seconds")
    if rewards.source in ("model", "iwpo"):
        passes = 1 if rewards.source == "model" else _passes_of_reward_model(str(rewards.model))
        found = _forward(setting, _pass(setting, setting.run_once).times(passes))
        of = "a pass" if passes == 1 else f"{passes} passes"
        return found._replace(note=f"{of} of the reward model, assumed to be as large as the policy")
    pairs = setting.pairs
    responses = len(np.unique(np.concatenate([pairs.chosen, pairs.rejected])))
    share = responses / MEASURED_RESPONSES * setting.policy.head.linear.weight.shape[1] / MEASURED_FEATURES
    note = f"heads on the host: those of the kind {rewards.heads} have not been timed"
    if rewards.heads in MEASURED_SECONDS:
        note = f"heads: about {MEASURED_SECONDS[rewards.heads] * share / 60:.1f} CPU minutes on the host"
    return Estimate(note=note) if rewards.tuning is None else _tuned(setting)._replace(note=note)


def _passes_of_reward_model(path: str) -> int:
    """How often its language model runs each response: frozen, and as each fold has tuned it."""
    folder = expanded(path)
    return 1 + len(adapters_in(folder, load(folder)[1]))


def weigh(setting: Setting) -> Estimate:
    return Estimate(note="seconds on the host")


def train(setting: Setting) -> Estimate:
    """All steps, the evaluations around them, and the micro-batches of the self-test."""
    config, pairs, policy = setting.config, setting.trained, setting.policy
    mixture = Mixture.of(config.objective)
    steps = optimizer_steps(config.optim, pairs.size)[1]
    trained = training_work(policy, pairs, config.optim, config.seed, setting.data_gpus)
    forward = self_test_work(policy, pairs, config) if config.self_test else Work()
    if mixture.needs_step_logps:  # the statistics of a step need its log-probs first
        forward = forward.beside(trained)
    held_out = None if mixture.reads(Reads.SCORES) and isinstance(config, RunConfig) else setting.held_out
    if held_out is not None:
        once = evaluation_work(policy, held_out, config.optim, setting.data_gpus)
        forward = forward.beside(once.times(evaluations(config, steps) * (2 if mixture.needs_step_logps else 1)))
    estimate = _training(setting, trained, steps)
    others = _forward(setting, forward)
    return estimate._replace(
        work=trained.beside(forward),
        flops=estimate.flops + others.flops,
        seconds=_both(estimate.seconds, others.seconds),
        note=f"{pairs.size:,} pairs, {steps:,} steps{_not_counted(config)}",
    )


def _not_counted(config: TrainConfig) -> str:
    """What a training runs beside pairs, in words."""
    drawn = "" if config.sampled_kl is None else "; without what sampled_kl draws and compares"
    reading = Mixture.of(config.objective).reading(Reads.CANDIDATES)
    return drawn if reading is None else f"{drawn}; without the other candidates that {reading} reads"


def evaluate(setting: Setting) -> Estimate:
    """The trained policy on held-out pairs, unless training has found what it gives."""
    config = setting.config
    if setting.held_out is None:
        return Estimate(note="nothing is held out")
    if config.reference_sync is None and not Mixture.of(config.objective).reads(Reads.SCORES):
        return Estimate(note="from the last evaluation of the training")
    return _forward(setting, evaluation_work(setting.policy, setting.held_out, setting.config.optim, setting.data_gpus))


STAGES: dict[str, Callable[[Setting], Estimate]] = {
    "prepare": prepare,
    "sample": sample,
    "reference": reference,
    "cluster": cluster,
    "reward": reward,
    "weigh": weigh,
    "train": train,
    "evaluate": evaluate,
}
"""By the names of the stages of `iwpo run`."""


def reference_of_training(setting: Setting) -> Estimate:
    """What `iwpo train` runs before its first step: each response of a pair once, if the objective reads it."""
    return reference(setting) if Mixture.of(setting.config.objective).uses_reference else Estimate(note="not needed")


def _pass(setting: Setting, responses: Responses) -> Work:
    return pass_work(setting.policy, responses, setting.config.optim.tokens_per_batch, setting.data_gpus)


def _forward(setting: Setting, *works: Work) -> Estimate:
    """Passes without gradients."""
    work = total(works)
    flops = setting.model.forward(work)
    each = setting.policy.compute_dtype.itemsize * _entries(setting) if setting.shards > 1 else 0
    traffic = each * work.batches / setting.data_gpus + _keys_received(setting, work, passes=1)
    memory = pass_memory(setting.config, setting.policy, work.largest[0], shards=setting.shards)
    return Estimate(work, flops, seconds_of(setting, flops, traffic), memory)


def _training(setting: Setting, work: Work, steps: int) -> Estimate:
    """Passes with gradients, and what GPUs send to one another for them (docs/distributed.md)."""
    config, policy = setting.config, setting.policy
    head = policy.head.linear.weight
    exponentials = work.largest[1] * head.shape[0] * policy.compute_dtype.itemsize
    flops = setting.model.training(work, config, saves=exponentials <= setting.gpu.memory / SAVED_SHARE_OF_MEMORY)
    gradients = 4 * sum(p.numel() for p in policy.trainable_parameters().values())
    traffic = 0.0
    if setting.shards > 1:
        gathered = 2 * policy.compute_dtype.itemsize * _entries(setting)
        traffic = (gathered + gradients) * work.batches / setting.data_gpus
    elif setting.gpus > 1:
        traffic = 2.0 * gradients * steps
    traffic += _keys_received(setting, work, passes=2 if config.model.gradient_checkpointing == "none" else 3)
    memory = training_memory(config, policy, *work.largest, room=setting.gpu.memory, shards=setting.shards)
    return Estimate(work, flops, seconds_of(setting, flops, traffic), memory)


def _tuned(setting: Setting) -> Estimate:
    """An adapter for each fold by the pairs of the others, and all responses by each; on one GPU."""
    assert isinstance(setting.config, RunConfig) and setting.config.rewards.tuning is not None
    rewards, optim = setting.config.rewards, setting.config.rewards.tuning.optim
    alone = setting.with_adapter(setting.config.rewards.tuning.lora)
    config = replace(setting.config, optim=optim, plan=replace(setting.config.plan, gpus=1), context_parallel=1)
    alone = alone._replace(config=config)
    pairs = setting.pairs
    seen = pairs.size if rewards.folds == 1 else pairs.size * (rewards.folds - 1) // rewards.folds
    shown = pairs._replace(chosen=pairs.chosen[:seen], rejected=pairs.rejected[:seen])
    work = training_work(alone.policy, shown, optim, config.seed, 1).times(rewards.folds)
    fitted = _training(alone, work, 0)
    responses = setting.run_once
    others = np.setdiff1d(np.arange(len(responses)), np.concatenate([pairs.chosen, pairs.rejected]))
    scored = _forward(
        alone,
        evaluation_work(alone.policy, pairs, optim, 1).times(rewards.folds),
        alone_work(alone.policy, responses, others, optim.tokens_per_batch).times(rewards.folds),
    )
    return fitted._replace(
        work=work.beside(scored.work),
        flops=fitted.flops + scored.flops,
        seconds=_both(fitted.seconds, scored.seconds),
    )


def _keys_received(setting: Setting, work: Work, *, passes: int) -> float:
    """Bytes of keys and values, or of their gradients, that a GPU receives from the others of its context."""
    processes = setting.config.context_parallel
    return passes * cache_bytes(setting.policy) * work.tokens / setting.data_gpus * (processes - 1) / processes


def _both(mine: tuple[float, float], others: tuple[float, float]) -> tuple[float, float]:
    return mine[0] + others[0], mine[1] + others[1]


def _entries(setting: Setting) -> int:
    return sum(p.numel() for p in setting.policy.parameters())
