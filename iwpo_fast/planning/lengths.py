"""How long prompts and responses are: counted in the data, or assumed where they are not here."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from huggingface_hub import is_offline_mode
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import CandidateConfig, DataShapeConfig, RunConfig, TrainConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data.places import local_files
from iwpo_fast.data.ragged import Ragged, bounds_of
from iwpo_fast.data.rows import Rows, first_single
from iwpo_fast.data.unique import Responses
from iwpo_fast.data.unpaired import refuse_unpaired
from iwpo_fast.models import load_tokenizer
from iwpo_fast.objectives import Mixture


class Lengths(NamedTuple):
    """Training and held-out data of a run; of assumed ones the token ids are absent, and only lengths are there.

    Attributes:
        held_out: its candidates are left out, because they are not run; None if nothing is held out.
        source: where the numbers are from, in words.
        tokenizer: None where the data were not read.
    """

    training: Responses
    held_out: Responses | None
    source: str
    tokenizer: PreTrainedTokenizerBase | None = None


def lengths_of(config: TrainConfig, *, with_candidates: bool) -> Lengths:
    """Count the tokens of the data if they are here, and the tokenizer too; take `plan.data` if they are not.

    A hub id is here if the hub is offline and its cache has it. Where `plan.data` is null the data are read as by any
    run. Nothing is kept in the caches of the run.

    Args:
        with_candidates: count responses that are in no pair too, as `iwpo run` runs them.

    Raises:
        ValueError: the data that are here cannot be read, or are not here and nothing is assumed.
    """
    shape, path = config.plan.data, config.data.path
    is_local = bool(local_files(path))
    if shape is None:
        return _counted(config, read_rows(config.data, votes=config.scores_are_votes), with_candidates)
    if not is_local and not is_offline_mode():
        why = f"{path} is a hub id, and a plan downloads nothing; plan.data null counts them"
        return _assumed(config, shape, why, with_candidates)
    try:
        rows = read_rows(config.data, votes=config.scores_are_votes)
    except ValueError:
        if is_local:
            raise
        return _assumed(config, shape, f"{path} is not here", with_candidates)
    try:
        return _counted(config, rows, with_candidates)
    except _NoTokenizer:
        return _assumed(config, shape, f"the tokenizer of {config.model.path} is not here", with_candidates)


def with_drawn(responses: Responses, drawn: CandidateConfig, tokens: int) -> Responses:
    """With `drawn.per_prompt` more responses of so many tokens behind every prompt."""
    prompts = len(responses.prompts)
    more = prompts * drawn.per_prompt
    lengths = np.concatenate([responses.completions.lengths, np.full(more, tokens)])
    prompt_of = np.concatenate([responses.prompt_of, np.repeat(np.arange(prompts), drawn.per_prompt)])
    return replace(responses, completions=_only_lengths(lengths), prompt_of=prompt_of)


class _NoTokenizer(ValueError):
    """The data are here, and what turns them into tokens is not."""


def _counted(config: TrainConfig, rows: tuple[Rows, Rows | None], with_candidates: bool) -> Lengths:
    training, held_out = rows
    for part in rows:
        _check_paired(config, part)
    try:
        tokenizer = load_tokenizer(config.model, training.texts())
    except ValueError as error:
        raise _NoTokenizer(str(error)) from error

    def count(part: Rows) -> Responses:
        with TemporaryDirectory() as place:
            return Responses.of(tokenise(part, tokenizer, replace(config.data, cache_dir=place))[0])

    return Lengths(
        count(training if with_candidates else training.without_candidates()),
        None if held_out is None else count(held_out.without_candidates()),
        f"counted in {training.source}",
        tokenizer,
    )


def _check_paired(config: TrainConfig, rows: Rows | None) -> None:
    """Raise ValueError if rows have one completion, and what is planned takes pairs."""
    if isinstance(config, RunConfig):
        refuse_unpaired(rows, "iwpo run")
    elif rows is not None and rows.present is not None:
        Mixture.of(config.objective).check_paired(rows.where(first_single(rows.present)))


def _assumed(config: TrainConfig, shape: DataShapeConfig, why: str, with_candidates: bool) -> Lengths:
    """Prompts and responses of one length each, cut to `data.max_length`."""
    data = config.data
    prompts = shape.prompts if data.limit is None else min(shape.prompts, data.limit)
    held_out = shape.held_out_prompts
    if not (data.eval_path or data.eval_split):
        held_out = round(data.eval_fraction * prompts)
        prompts -= held_out
    response = min(shape.response_tokens, data.max_length - 1)
    prompt = min(shape.prompt_tokens, data.max_length - response)
    sizes = replace(shape, prompt_tokens=prompt, response_tokens=response)
    every = data.pairs_from_candidates == "all"
    return Lengths(
        _made(prompts, sizes, every_pair=every, with_candidates=with_candidates),
        _made(held_out, sizes, every_pair=every, with_candidates=False) if held_out else None,
        f"assumed, from plan.data ({why})",
    )


def _made(prompts: int, shape: DataShapeConfig, *, every_pair: bool, with_candidates: bool) -> Responses:
    """So many prompts with the pairs that `data.pairs_from_candidates` makes, the best response first."""
    count = shape.responses if with_candidates or every_pair else 2
    pairs = list(combinations(range(count), 2)) if every_pair else [(0, count - 1)]
    first = np.arange(prompts)[:, None] * count
    chosen, rejected = ((first + np.array(side)).ravel() for side in zip(*pairs, strict=True))
    return Responses(
        prompts=_only_lengths(np.full(prompts, shape.prompt_tokens)),
        completions=_only_lengths(np.full(prompts * count, shape.response_tokens)),
        prompt_of=np.repeat(np.arange(prompts), count),
        chosen=chosen,
        rejected=rejected,
        candidates=np.setdiff1d(np.arange(prompts * count), np.concatenate([chosen, rejected])),
    )


def _only_lengths(lengths: np.ndarray) -> Ragged:
    return Ragged(np.empty(0, dtype=np.int32), bounds_of(lengths))
