"""What rows and settings tell of later stages, said before the first of them costs anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from iwpo_fast.config import RewardConfig, RunConfig
from iwpo_fast.data import Pairs, Rows, tokenise
from iwpo_fast.data.columns import REFERENCE
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import load_tokenizer
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.pipeline.external_scores import grades_of_responses, scores_of_responses_in
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.preview import look_at, preview_lines, typical
from iwpo_fast.rewards.categories import graded
from iwpo_fast.rewards.checks import check_folds, check_prompt_keys
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.family import check_rates
from iwpo_fast.rewards.scores import fold_count


def check_given(job: PipelineJob) -> None:
    """Tokenise the data as they were given, show some pairs, and look at what later stages need of them.

    Raises:
        ValueError: one sentence that names the row of the data, or the setting.
    """
    config = job.config
    rows, held_out = job.load_given()
    tokenizer = load_tokenizer(config.model, rows.texts())
    with _place_of_tokens(job) as place:
        data = replace(config.data, cache_dir=str(place))
        pairs, ledger = tokenise(rows, tokenizer, data, progress=True)
        if held_out is not None:
            tokenise(held_out.without_candidates(), tokenizer, data)
    _check_rewards(config, rows, pairs)
    _check_objective(config, rows, pairs)
    looks = look_at(rows, typical(pairs), tokenizer, config.data, config.objective.label_smoothing)
    print("\n".join([*ledger.lines(), *preview_lines(looks, tokenizer, rows.source)]))


@contextlib.contextmanager
def _place_of_tokens(job: PipelineJob) -> Iterator[Path]:
    """Where stages find the tokens again; a dry run keeps none."""
    if not job.config.dry_run:
        yield job.cache_dir()
        return
    with TemporaryDirectory() as place:
        yield Path(place)


def _check_rewards(config: RunConfig, rows: Rows, pairs: Pairs) -> None:
    rewards = config.rewards
    if rewards.source == "columns":
        scores_of_responses_in(rows, pairs, rewards)
    if rewards.learns_from_votes:
        graded(grades_of_responses(rows, pairs), rewards.categories)
    if rewards.source == "features":
        responses, folds = Responses.of(pairs), fold_count(rewards)
        keys = responses.prompt_keys
        check_prompt_keys(keys, len(keys), rewards)
        fold = fold_of_prompts(keys, folds, config.seed)[responses.prompt_of[responses.chosen]]
        check_folds(fold, folds)
        if rewards.family is not None:
            check_rates(rewards.family, pairs.tokens_trained, fold, rewards.folds)


def _check_objective(config: RunConfig, rows: Rows, pairs: Pairs) -> None:
    """Scores are made by a later stage, so only their number is known."""
    mixture = Mixture.of(config.objective)
    smoothing = config.objective.label_smoothing if pairs.label_smoothing is None else pairs.label_smoothing
    if config.weights.forward_kl == "samples" and REFERENCE[0] in pairs.columns:
        raise ValueError(
            f"weights.forward_kl is samples and the data bring {' and '.join(REFERENCE)}, which what is drawn does not "
            "have: leave these columns out, or set forward_kl to pairs."
        )
    mixture.check_columns(pairs.columns, smoothing, rows.source, rows.numbers[pairs.row], scored_later=True)
    if mixture.reads(Reads.FAMILY) and _members(config.rewards, pairs) == 1:
        name = mixture.reading(Reads.FAMILY)
        raise ValueError(
            f"The objective {name} needs scores of several reward models, and rewards.source {config.rewards.source} "
            "gives those of one here: set rewards.source to features with rewards.ensemble above 1, give lists of "
            "scores, or choose another objective."
        )


def _members(rewards: RewardConfig, pairs: Pairs) -> int | None:
    """Reward models that score every response; None where another run says how many."""
    if rewards.source == "columns":
        return int(np.atleast_2d(pairs.columns["score_chosen"].T).shape[0])
    return {"features": rewards.members, "model": 1}.get(rewards.source)
