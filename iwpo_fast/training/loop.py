"""Training on preference pairs, top to bottom: read, plan, check, step, evaluate, save."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from iwpo_fast.config import TrainConfig
from iwpo_fast.data import Pairs, cache_folder, read_rows, tokenise
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.order import Turn, micro_batches, step_rows
from iwpo_fast.files import written_aside
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.load import check_on_device
from iwpo_fast.models.reference import ReferenceLogps, reference_logps
from iwpo_fast.models.sharding import Sharding, taking_turns
from iwpo_fast.optimisation import clip_gradients, learning_rate, make_optimizer
from iwpo_fast.training.batches import Batches, batches_ahead, one_step
from iwpo_fast.training.checkpoint import TrainState, load_checkpoint, save_checkpoint
from iwpo_fast.training.determinism import deterministic_algorithms
from iwpo_fast.training.job import Job
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.training.metrics import PreferenceMetrics
from iwpo_fast.training.plan import make_plan
from iwpo_fast.training.reporter import Reporter
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.training.self_test import check_policy_is_reference
from iwpo_fast.training.step_constants import step_constants
from iwpo_fast.training.summary import TrainSummary, summarise
from iwpo_fast.training.threads_of_run import threads_of_run
from iwpo_fast.training.trackers import open_trackers
from iwpo_fast.training.validation import check_config
from iwpo_fast.world import World


def train(config: TrainConfig) -> TrainSummary | None:
    """Run or resume the training that `config` describes.

    Returns:
        The summary, or None after a dry run.

    Raises:
        ValueError: one sentence on what is wrong with the configuration, the data or the folder, and what to do.
    """
    check_config(config)
    recorded = RunFolder(Path(config.output_dir)).threads
    with deterministic_algorithms(config.deterministic), threads_of_run(recorded) as other_threads:
        return _train(config, other_threads)


def _train(config: TrainConfig, other_threads: str | None) -> TrainSummary | None:
    loss = PreferenceLoss(config.objective)
    world = World.start(config.device)
    check_on_device(config.model, world.device)
    sharding = Sharding.of(world, config.shard_over)
    say = print if world.is_main else lambda *_: None
    folder = RunFolder.check(config)
    if folder.summary.exists() and not config.dry_run:
        say(f"{folder.path} holds the finished run of this configuration: nothing to do.")
        return TrainSummary.load(folder.summary)

    source = read_rows(config.data)
    tokenizer = load_tokenizer(config.model, source.train.texts())
    with world.main_first():
        pairs, ledger = tokenise(source.train, tokenizer, config.data, progress=world.is_main)
        held_out, held_out_ledger = None, None
        if source.evaluation is not None:
            held_out, held_out_ledger = tokenise(source.evaluation, tokenizer, config.data, progress=world.is_main)
            loss.check_data(held_out, source.evaluation.source)
    loss.check_data(pairs, source.train.source)
    longest = config.data.max_length
    policy = load_policy(
        config.model, tokenizer, seed=config.seed, device=world.device, max_length=longest, sharding=sharding
    )
    plan = make_plan(config, policy, pairs, held_out, world)
    for part in (ledger, held_out_ledger, plan):
        for line in part.lines() if part else []:
            say(line)
    if config.dry_run:
        return None

    def rows_of_step(step: int) -> np.ndarray:
        return step_rows(len(pairs), step, pairs_per_step=config.optim.pairs_per_step, seed=config.seed)

    fingerprint = policy.fingerprint()

    def reference_of(pairs: Pairs) -> ReferenceLogps | None:
        if not loss.mixture.uses_reference:
            return None
        return reference_logps(
            policy,
            pairs,
            fingerprint,
            tokens_per_batch=config.optim.tokens_per_batch,
            cache_dir=cache_folder(config.data),
            world=world,
            workers=config.data.workers,
        )

    job = Job(config, world, policy, loss, pairs, reference_of(pairs))
    evaluation = None if held_out is None else replace(job, pairs=held_out, reference=reference_of(held_out))
    if config.self_test and job.reference is not None and not folder.has_progress:
        first = micro_batches(rows_of_step(0), policy.tokens(pairs), budget=config.optim.tokens_per_batch)[0][0]
        difference = check_policy_is_reference(policy, pairs, job.reference, first, tokenizer, world.device)
        say(f"step 00000 self-test | policy and reference agree to {difference:.1e} nats on {len(first)} pairs")
    if world.is_main:
        inputs = {"model": fingerprint, "training data": pairs.fingerprint()}
        folder.open(config, inputs | ({"evaluation data": held_out.fingerprint()} if held_out else {}))
        ledger.save(folder.ledger)
        if held_out_ledger is not None:
            held_out_ledger.save(folder.held_out_ledger)
    world.barrier()
    parameters = policy.trainable_parameters()
    optimizer = make_optimizer(parameters, config.optim)
    state = load_checkpoint(folder.checkpoints, parameters, optimizer)
    if state.step:
        say(f"resuming from step {state.step}{f'; {other_threads}' if other_threads else ''}")

    trackers = open_trackers(config, folder, resumed_step=state.step) if world.is_main else []
    metrics = PreferenceMetrics(world.device, normalize=config.objective.normalize)
    reporter = Reporter(trackers, plan, state, world, metrics, truncated=ledger.truncated_fraction)
    if evaluation is not None and state.step == 0:
        reporter.evaluation(state, evaluate(evaluation, state))
    batches = batches_ahead(job, map(rows_of_step, range(state.step, plan.steps)))
    reporter.start_clock()
    for step in range(state.step, plan.steps):
        rows = rows_of_step(step)
        rate = learning_rate(step, plan.steps, config.optim)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Dropout depends on seed, step and rank alone, so a resumed run draws the same numbers.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, step, world.rank]).generate_state(1)[0]))
        accumulate_gradients(job, rows, batches, state, metrics)
        grad_norm = clip_gradients(parameters.values(), config.optim.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        state.step += 1
        state.pairs += len(rows)
        state.tokens += int(pairs.tokens[rows].sum())
        last = state.step == plan.steps
        saving = last or _due(config.checkpoint.every, state.step)
        # A line before every checkpoint: no sum goes across one, and nothing that is not finite is saved.
        line_due = saving or state.step == 1 or _due(config.log.every, state.step)
        reporter.step(state, pairs.weight[rows], rate, grad_norm, due=line_due)
        if evaluation is not None and (last or _due(config.log.eval_every, state.step)):
            reporter.evaluation(state, evaluate(evaluation, state))
        if saving:
            save_checkpoint(folder.checkpoints, state, parameters, optimizer, world, keep=config.checkpoint.keep)
        reporter.start_clock()
    reporter.close()

    weights = policy.gathered(keep=world.is_main)
    if world.is_main:
        with written_aside(folder.model) as aside:
            policy.save(aside, tokenizer, weights)
        summarise(folder, plan).save(folder.summary)
    world.barrier()
    summary = TrainSummary.load(folder.summary)
    for line in summary.lines():
        say(line)
    return summary


def accumulate_gradients(
    job: Job,
    rows: np.ndarray,
    batches: Iterator[tuple[Turn, FlatBatch]],
    state: TrainState,
    metrics: PreferenceMetrics,
) -> None:
    """Leave in `.grad` the gradient of the loss over `rows`, the pairs of all ranks and micro-batches.

    Does not synchronise with the device, except for `beta_dpo`, whose statistics the host computes, and for what models
    of transformers do with padding masks.

    Args:
        batches: this rank's micro-batches, those of `rows` next.
    """
    policy, loss = job.policy.train(), job.loss
    of_step: Batches = one_step(batches)
    if loss.mixture.needs_step_logps:
        of_step = list(of_step)  # read twice
    rng = np.random.default_rng([job.config.seed, state.step])
    constants = step_constants(job, rows, of_step, state.objective, rng)
    # Every micro-batch divides by what the whole step holds, so the sum does not depend on how it was cut.
    denominator = _denominator(job, rows)
    for _, batch in taking_turns(policy, of_step):
        output = loss(loss.token_logps(policy, batch), batch, denominator, constants.of(batch))
        output.loss.backward()
        metrics.add(output.sums)
    job.world.sum_gradients(policy.trainable_parameters().values())


def _denominator(job: Job, rows: np.ndarray) -> float:
    """Number of pairs of the step, or the sum of their weights."""
    if job.config.objective.normalize == "weights":
        return float(job.pairs.weight[rows].sum()) or 1.0
    return float(len(rows))


@torch.no_grad()
def evaluate(job: Job, state: TrainState) -> dict[str, float]:
    """Exact metrics over all pairs of the job, named `eval_...`; for the objective they are one step."""
    rows = np.arange(len(job.pairs))
    metrics = PreferenceMetrics(job.world.device, normalize=job.config.objective.normalize)
    policy, loss = job.policy.eval(), job.loss
    constants = step_constants(job, rows, batches_ahead(job, [rows]), copy.deepcopy(state.objective), None)
    for _, batch in taking_turns(policy, batches_ahead(job, [rows])):
        metrics.add(loss(loss.token_logps(policy, batch), batch, float(len(rows)), constants.of(batch)).sums)
    return {f"eval_{name}": value for name, value in metrics.compute(job.world).items()}


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
