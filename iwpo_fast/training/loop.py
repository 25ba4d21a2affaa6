"""Training on preference pairs, top to bottom: read, plan, check, step, evaluate, save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from iwpo_fast import signals
from iwpo_fast.agreement import check_rows, check_seen, check_shared, check_told
from iwpo_fast.annotators.by_type import check_policy, keep_votes, save_each
from iwpo_fast.annotators.rounds import cost_lines, train_types
from iwpo_fast.config import DataConfig, TrainConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.data import Ledger, Rows, cache_folder, read_rows
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.data.clock import clock_at
from iwpo_fast.data.order import MicroBatch
from iwpo_fast.files import written_aside
from iwpo_fast.hub import push_if_asked
from iwpo_fast.models import load_policy, load_tokenizer, reward_head
from iwpo_fast.models.load import check_on_device
from iwpo_fast.models.pretrained import model_line
from iwpo_fast.models.router import RouterLoss
from iwpo_fast.models.saved_files import CARD
from iwpo_fast.models.sharding import shard_mesh
from iwpo_fast.optimisation import make_optimizer, seed_step, set_learning_rate
from iwpo_fast.planning import estimate_lines
from iwpo_fast.training.about import About
from iwpo_fast.training.answer_ends import end_lines, ends_of
from iwpo_fast.training.best import best_lines, check_evaluated, note_evaluation
from iwpo_fast.training.callbacks import Callback, Run
from iwpo_fast.training.checkpoint import (
    TrainState,
    checkpoints,
    load_checkpoint,
    load_weights,
    remove_old,
    save_checkpoint,
)
from iwpo_fast.training.diverged import check_update, diverged
from iwpo_fast.training.finished import finished
from iwpo_fast.training.held_out_margins import keep_margins
from iwpo_fast.training.job import Job, batches_ahead
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.training.model_card import model_card
from iwpo_fast.training.moving_reference import MovingReference
from iwpo_fast.training.plan import plan_lines
from iwpo_fast.training.prepared import (
    clock_lines,
    open_folder,
    places_of,
    preview_of,
    tested,
    tokenised,
    with_sampled_kl,
)
from iwpo_fast.training.reporter import Reporter
from iwpo_fast.training.reproducible import deterministic_algorithms, threads_of_run
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.training.sampled_kl import prompts_to_answer
from iwpo_fast.training.samples import Samples
from iwpo_fast.training.self_test import Place
from iwpo_fast.training.step import evaluate, metrics_of, train_step
from iwpo_fast.training.summary import TrainSummary, summarise
from iwpo_fast.training.trackers import has_evaluation, open_trackers
from iwpo_fast.world import World

Read = Callable[[DataConfig], tuple[Rows, Rows | None]]
NOTHING = About()


def train(
    config: TrainConfig, *, read: Read = read_rows, callbacks: Sequence[Callback] = (), about: About = NOTHING
) -> TrainSummary | None:
    """Run or resume the training that `config` describes.

    Args:
        read: gives the rows to train on and those held out, under the numbers that messages call them by.
        callbacks: functions of your own, called while it goes on.
        about: what made the rows says of them, for the plan and for the card of the model.

    Returns:
        The summary, or None after a dry run.

    Raises:
        ValueError: one sentence on what is wrong with the configuration, the data or the folder, and what to do.
    """
    check_config(config)
    if config.plan.on is not None:
        World.start("cpu").say(*estimate_lines(config), *cost_lines(config.types))
        return None
    if config.types is not None:
        return train_types(config, read, lambda of_round, rows: _train_once(of_round, rows, callbacks, about))
    return _train_once(config, read, callbacks, about)


def _train_once(config: TrainConfig, read: Read, callbacks: Sequence[Callback], about: About) -> TrainSummary | None:
    """One training, in the circumstances that it began in."""
    folder = RunFolder(Path(config.output_dir))
    with (
        deterministic_algorithms(config.deterministic),
        clock_at(folder.clock),
        threads_of_run(folder.threads) as other_threads,
    ):
        return _train(config, other_threads, read, callbacks, about)


def _train(
    config: TrainConfig, other_threads: str | None, read: Read, callbacks: Sequence[Callback], about: About
) -> TrainSummary | None:
    world = World.start(config.device)
    _check_agreement(config, world)
    check_on_device(config.model, world.device)
    mesh, world = shard_mesh(world, config.shard_over), world.in_contexts_of(config.context_parallel)
    folder = RunFolder.check(config)
    if not config.dry_run and (done := finished(folder, world)) is not None:
        push_if_asked(folder.model, config.push_to_hub, world)
        return done

    loss = PreferenceLoss(config.objective)
    rows, held_out_rows = read(config.data)
    check_rows(world, (rows, held_out_rows))
    for some in (rows, held_out_rows):
        loss.check_rows(some)
    world.say(model_line(config.model))
    tokenizer = load_tokenizer(config.model, rows.texts())
    ledgers: dict[Path, Ledger] = {}
    pairs, ledgers[folder.ledger] = tokenised(rows, tokenizer, loss, config, world)
    held_out = None
    if held_out_rows is not None:
        held_out, ledgers[folder.held_out_ledger] = tokenised(held_out_rows, tokenizer, loss, config, world)
    longest = config.data.max_length
    check_evaluated(config, held_out, rows.source)
    prompts = prompts_to_answer(config, tokenizer, rows, pairs)
    types = None if config.types is None else config.types.count
    policy = load_policy(config.model, tokenizer, world, seed=config.seed, max_length=longest, mesh=mesh, types=types)
    loss.equip(policy, config.model, config.data)
    job = Job(config, world, policy, loss, pairs, held_out, RouterLoss.of(policy))
    check_policy(policy, job.router)
    for ledger in ledgers.values():
        world.say(*ledger.lines())
    ends = ends_of(pairs, tokenizer)
    world.say(*end_lines(policy, ends, tokenizer), *preview_of(job, rows, tokenizer), *plan_lines(job, about.held_out))
    world.say(*clock_lines(rows, tokenizer))
    if config.dry_run:
        return None

    job = with_sampled_kl(job, prompts, tokenizer, ends)
    job = tested(job, rows, held_out_rows, tokenizer, folder)
    open_folder(folder, job, ledgers)
    optimizer = make_optimizer(policy.trainable_parameters(), config.optim, reward_head.own_rates(config.objective))
    sync, parameters = config.reference_sync, policy.trainable_parameters()
    moving = None if sync is None else MovingReference(sync, parameters)
    state = load_checkpoint(folder.checkpoints, _kept(parameters, moving), optimizer, world)
    if state.step:
        world.say(f"resuming from step {state.step}{f'; {other_threads}' if other_threads else ''}")
        if world.is_main:
            remove_old(folder.checkpoints, config.checkpoint.keep)
    run = Run(job, state, tokenizer, folder.path, moving, [*_samples(job, folder, ends), *callbacks])
    _optimise(run, folder, optimizer, places_of(job, rows), truncated=ledgers[folder.ledger].truncated_fraction)
    if state.best is not None:
        load_weights(folder.checkpoints, parameters, world)
    if config.types is not None:
        keep_votes(folder.votes, run.job, config.types.votes)

    weights = policy.gathered(keep=world.is_main)
    if world.is_main:
        summary = summarise(folder, job, state)
        with written_aside(folder.model) as aside:
            save_each(aside, policy, tokenizer, weights, policy.saved_dtype(config.checkpoint.dtype), ends)
            (aside / CARD).write_text(model_card(job, summary, rows.source, about), encoding="utf-8")
        summary.save(folder.summary)
    world.barrier()
    summary = TrainSummary.load(folder.summary)
    world.say(*summary.lines(), *best_lines(state, config.checkpoint))
    run.ended()
    push_if_asked(folder.model, config.push_to_hub, world)
    return summary


def _check_agreement(config: TrainConfig, world: World) -> None:
    """Raise Agreed unless all processes of the job have the same settings, model and checkpoint, and share folders."""
    folder = RunFolder(Path(config.output_dir))
    check_told(world, config)
    if not config.dry_run:
        check_shared(world, {"output_dir": folder.path, "data.cache_dir": cache_folder(config.data)})
    newest = checkpoints(folder.checkpoints)[-1:]
    summary = folder.summary if folder.summary.exists() else None
    files = {"the newest checkpoint": newest[0] / "state.json" if newest else None, "the summary": summary}
    check_seen(world, config.model, files)


def _optimise(run: Run, folder: RunFolder, optimizer: torch.optim.Optimizer, place: Place, *, truncated: float) -> None:
    """The steps from `run.state` to the last, with their log lines, evaluations and checkpoints.

    Raises:
        ValueError: a loss, a gradient or a weight is not finite; says which, at which step and with which pairs.
    """
    job, state, world = run.job, run.state, run.job.world
    trackers = open_trackers(job.config, folder, resumed_step=state.step) if world.is_main else []
    metrics = metrics_of(job)
    reporter = Reporter(job, trackers, state, metrics, truncated=truncated)
    if run.moving is not None:
        run.job = run.moving.resumed(job, state.step)
    run.begun()
    _evaluate_first(run, folder, optimizer, reporter)
    with signals.finishing_steps():
        for batches in _steps(run):
            job = run.job
            reporter.start_clock()
            rows = job.rows_of_step(state.step)
            rate = set_learning_rate(optimizer, state.step, job.steps, job.config.optim)
            seed_step(job.config.seed, state.step, world.rank)
            grad_norm = train_step(job, rows, batches, optimizer, state, metrics)
            state.count(len(rows), int(job.pairs.tokens[rows].sum()))
            stopped_by = world.largest(signals.asked())
            saving = bool(stopped_by) or _checkpoint_due(job, state)
            line_due = saving or _line_due(run)
            line, bad_step = reporter.step(state, job.pairs.weight[rows], rate, grad_norm, due=line_due)
            if bad_step is not None:
                raise diverged(job, state, bad_step, place)
            if line:
                run.stepped(line)
            if not stopped_by:  # then the run that goes on does it first, because a queue leaves little time
                _evaluate_if_due(run, reporter)
            if saving or state.stopped_early:
                check_update(job, optimizer, state, place)
                _save(run, folder, optimizer)
            if stopped_by:
                reporter.close()
                world.barrier()  # a rank that ends early would have its launcher end those that still write
                raise signals.Stopped(stopped_by, state.step)
    reporter.close()


def _steps(run: Run) -> Iterator[Iterator[tuple[MicroBatch, FlatBatch]]]:
    """This rank's micro-batches for each step to come, those of the step next; the reference has moved where it is due.

    `run.state` says which step is next, and whether there is one.
    """
    state, moving = run.state, run.moving
    batches: Iterator[tuple[MicroBatch, FlatBatch]] | None = None
    while state.step < run.job.steps and not state.stopped_early:
        if moving is not None and moving.moves_before(state.step):
            run.job, batches = moving.moved(run.job, state.step), None
        if batches is None:
            batches = _batches_until_it_moves(run, state.step)
        yield batches


def _evaluate_first(run: Run, folder: RunFolder, optimizer: torch.optim.Optimizer, reporter: Reporter) -> None:
    """The evaluation that is due where the run begins, unless its metrics have it."""
    job, state = run.job, run.state
    if job.world.from_main(job.world.is_main and has_evaluation(folder.metrics, state.step)):
        return
    _evaluate_if_due(run, reporter)
    if state.best is not None and state.step and _evaluation_due(job, state):
        # The run was asked to end before this evaluation, and its checkpoint does not know of it.
        _save(run, folder, optimizer)


def _checkpoint_due(job: Job, state: TrainState) -> bool:
    kept = job.config.checkpoint
    return _due(kept.every, state.step, state.step == job.steps) or (
        kept.best is not None and _evaluation_due(job, state)
    )


def _line_due(run: Run) -> bool:
    """Whether a step has a line whether or not it has a checkpoint.

    Each checkpoint has one before it: no sum goes across one, and nothing that is not finite is saved. A callback may
    end the run at an evaluation, which makes a checkpoint.
    """
    may_end = run.is_watched and run.job.held_out is not None and _evaluation_due(run.job, run.state)
    return _due(run.job.config.log.every, run.state.step, run.state.step == 1 or may_end)


def _save(run: Run, folder: RunFolder, optimizer: torch.optim.Optimizer) -> None:
    kept, keep = _kept(run.job.policy.trainable_parameters(), run.moving), run.job.config.checkpoint.keep
    save_checkpoint(folder, run.state, kept, optimizer, run.job.world, keep=keep)


def _kept(parameters: Mapping[str, Parameter], moving: MovingReference | None) -> Mapping[str, Tensor]:
    """What checkpoints hold of weights: those that are trained, and those of a reference that moves."""
    return {**parameters, **({} if moving is None else {f"reference.{n}": w for n, w in moving.weights.items()})}


def _batches_until_it_moves(run: Run, step: int) -> Iterator[tuple[MicroBatch, FlatBatch]]:
    """This rank's micro-batches from `step` on, as far as the reference that they bring is known."""
    end = run.job.steps if run.moving is None else min(run.moving.until(step), run.job.steps)
    return batches_ahead(run.job, map(run.job.rows_of_step, range(step, end)))


def _samples(job: Job, folder: RunFolder, ends: Sequence[int]) -> list[Callback]:
    log = job.config.log
    return [Samples(folder.samples, log.samples, log.sample_tokens, ends)] if log.samples else []


def _evaluate_if_due(run: Run, reporter: Reporter) -> None:
    job, state = run.job, run.state
    evaluation = job.evaluation
    if evaluation is None or not _evaluation_due(job, state):
        return
    metrics, margins = evaluate(evaluation, state)
    of_one_policy = evaluation.pairs.present is None and job.policy.types is None
    if job.world.is_main and of_one_policy:  # before `metrics.jsonl`, after which none is evaluated
        keep_margins(RunFolder(run.folder).margins, state.step, evaluation.pairs, margins)
    reporter.evaluation(state, metrics)
    note_evaluation(state, metrics, job.config.checkpoint)
    run.evaluated(metrics)


def _evaluation_due(job: Job, state: TrainState) -> bool:
    return _due(job.config.log.eval_every, state.step, state.step in (0, job.steps) or state.stopped_early)


def _due(every: int | None, step: int, anyway: bool) -> bool:
    return anyway or (every is not None and step % every == 0)
