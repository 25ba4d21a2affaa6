"""What stands before the first step: tokens, reference log-probs, the self-test, and the files of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import TrainConfig
from iwpo_fast.data import Ledger, Pairs, Rows, cache_folder, tokenise
from iwpo_fast.data.clock import clock_line
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.ranked import with_candidates_between
from iwpo_fast.models.other_reference import load_reference
from iwpo_fast.models.reference import with_reference, with_reference_of_all
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.preview import look_at, preview_lines, typical
from iwpo_fast.training.job import Job
from iwpo_fast.training.loss import PreferenceLoss
from iwpo_fast.training.reference_columns import reference_lines, refuse_columns
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.training.sampled_kl import SampledKL
from iwpo_fast.training.self_test import Place, check_policy_is_reference, measure, rounding
from iwpo_fast.words import several
from iwpo_fast.world import World


def tokenised(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, loss: PreferenceLoss, config: TrainConfig, world: World
) -> tuple[Pairs, Ledger]:
    """The pairs of the rows, which have what the objective needs; few objectives read candidates in no pair."""
    with world.main_first():
        compares = loss.mixture.reading(Reads.CANDIDATES)
        read = rows if compares else rows.without_candidates()
        pairs, ledger = tokenise(read, tokenizer, config.data, progress=world.is_main)
    if compares:
        orders, scores = loss.mixture.reading(Reads.ORDER), loss.mixture.reads(Reads.SCORES)
        pairs = with_candidates_between(pairs, rows, orders or compares, ordered=orders is not None, scored=scores)
    loss.check_data(pairs, rows)
    return pairs, ledger


def with_sampled_kl(job: Job, prompts: Ragged | None, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> Job:
    """With the KL on what the policy draws for these prompts, and its reference, if there are any."""
    if prompts is None:
        return job
    return replace(job, sampled_kl=SampledKL.of(job.config, job.policy, prompts, tokenizer, job.world, ends))


def _with_references(job: Job, tokenizer: PreTrainedTokenizerBase) -> Job:
    """With reference log-probs of all pairs, if the objective reads them."""
    other, live = None, job.sampled_kl and job.sampled_kl.reference
    if job.config.model.reference is not None:
        refuse_columns(job)
        other = live.policy if live else load_reference(job.config, tokenizer, job.world)
        job = replace(job, reference=other.fingerprint)
    if not job.loss.mixture.uses_reference:
        return job
    reference = partial(
        with_reference_of_all if job.loss.mixture.uses_reference_of_all else with_reference,
        other or job.policy,
        world=job.world,
        cache_dir=cache_folder(job.config.data),
        tokens_per_batch=job.config.optim.tokens_per_batch,
        workers=job.config.data.workers,
    )
    held_out = None if job.held_out is None else reference(job.held_out)
    return replace(job, pairs=reference(job.pairs), held_out=held_out)


def preview_of(job: Job, rows: Rows, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A short, a median and a long pair, as they are trained on."""
    smoothing = job.config.objective.label_smoothing
    looks = look_at(rows, typical(job.pairs), tokenizer, job.config.data, smoothing)
    return preview_lines(looks, tokenizer, rows.source)


def tested(job: Job, rows: Rows, held_out: Rows | None, tokenizer: PreTrainedTokenizerBase, folder: RunFolder) -> Job:
    """With reference log-probs, and the self-test before and after the pass that they take, unless the run goes on."""
    if folder.has_progress:
        return _with_references(job, tokenizer)

    place = places_of(job, rows)
    measured = measure(job, place) if job.config.self_test else None
    job = _with_references(job, tokenizer)
    job.world.say(*reference_lines(job, rows, held_out))
    if measured is not None and job.pairs.ref_logps is not None and job.reference is None:
        difference, pairs = check_policy_is_reference(job, measured, tokenizer, place)
        job.world.say(
            f"self-test: policy and reference agree to {difference:.1e} nats on {pairs} {job.pairs.noun} in "
            f"{several(len(measured.rows), 'micro-batch', 'es')}{rounding(job.policy.compute_dtype)}"
        )
    return job


def places_of(job: Job, rows: Rows) -> Place:
    return lambda pair: f"row {rows.numbers[job.pairs.row[pair]]} of {rows.source}"


def clock_lines(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    line = clock_line(tokenizer) if rows.conversational else None
    return [] if line is None else [f"      {line}"]


def open_folder(folder: RunFolder, job: Job, ledgers: Mapping[Path, Ledger]) -> None:
    """Take the folder, and write the ledgers into it."""
    inputs = {"model": job.policy.fingerprint, "training data": job.pairs.fingerprint()}
    if job.held_out is not None:
        inputs["evaluation data"] = job.held_out.fingerprint()
    if job.reference is not None:
        inputs["reference"] = job.reference
    if job.sampled_kl is not None:
        inputs["prompts of sampled_kl"] = job.sampled_kl.fingerprint
    if job.world.is_main:
        folder.open(job.config, inputs)
        for path, ledger in ledgers.items():
            ledger.save(path)
    job.world.barrier()
