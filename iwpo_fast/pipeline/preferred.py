"""Preferred pairs in a pipeline: whether any are drawn, from which proposal, and as which rows of the weighted file."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import chain

import numpy as np

from iwpo_fast.config import RunConfig, WeightConfig
from iwpo_fast.config_checks import leaves_room
from iwpo_fast.data import Pairs, read_rows
from iwpo_fast.data.arrow_rows import stored
from iwpo_fast.data.candidates import key_of
from iwpo_fast.data.columns import REFERENCE
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.unique import Responses
from iwpo_fast.importance.preferred import FEWEST_RESPONSES, Preferred, Proposal, has_several
from iwpo_fast.pipeline.response_texts import ResponseTexts
from iwpo_fast.rewards import PairTable


def check_preferred(config: RunConfig) -> None:
    """Raise ValueError if the data, which this reads, leave nothing to draw and pairs are asked for by hand.

    What the samples of the policy and the limit of tokens add or take is seen when pairs are drawn (`draws_for`).
    """
    if _asked(config.weights) is None:
        return
    rows, _ = read_rows(config.data, votes=config.scores_are_votes)
    responses: defaultdict[str, set[str]] = defaultdict(set)
    for prompt, *completions in zip(rows.prompt, rows.chosen, rows.rejected, strict=True):
        responses[key_of(prompt)].update(map(key_of, completions))
    if rows.candidates is not None:
        for row, text in zip(rows.candidates.row.tolist(), rows.candidates.texts, strict=True):
            responses[key_of(rows.prompt[row])].add(key_of(text))
    several = config.candidates.per_prompt > 0 or max(map(len, responses.values()), default=0) >= FEWEST_RESPONSES
    _draws(config, set(rows.columns), several)


def draws_for(config: RunConfig, pairs: Pairs, prompt_of: np.ndarray) -> int:
    """M, the pairs to draw for each prompt.

    Args:
        prompt_of: int64 [C], prompt of each response.

    Raises:
        ValueError: `weights.preferred_pairs` is a number, and there is nothing to draw.
    """
    draws = _draws(config, set(pairs.columns), bool(has_several(prompt_of).any()))
    if draws and config.weights.preferred_pairs == "auto" and not leaves_room(config):
        print("no preferred pairs: the objective smooths labels or cannot, or rewards are not calibrated")
        return 0
    return draws


def _draws(config: RunConfig, columns: set[str], several: bool) -> int:
    """The same from what the data have; 0 where `auto` has nothing to draw."""
    asked, draws = _asked(config.weights), config.weights.resolved().preferred_pairs
    assert draws != "auto"
    if not draws:
        return 0
    if not several:
        if asked is None:
            return 0
        raise ValueError(
            f"weights.{asked} is {getattr(config.weights, asked)}, but no prompt has more than two responses to draw "
            f"from: bring candidates, set candidates.per_prompt, or leave {asked} out."
        )
    if columns >= set(REFERENCE):
        if asked is None:
            print(f"no preferred pairs: the data bring {' and '.join(REFERENCE)}, which drawn pairs would not have")
            return 0
        raise ValueError(
            f"weights.{asked} is {getattr(config.weights, asked)}, but the data bring {' and '.join(REFERENCE)}, which "
            f"drawn pairs would not have: leave these columns out, or {asked}."
        )
    return draws


def _asked(weights: WeightConfig) -> str | None:
    """The setting by which preferred pairs are asked for, where `auto` alone does not decide."""
    if weights.preferred_pairs != "auto":
        return "preferred_pairs" if weights.preferred_pairs else None
    plain = WeightConfig()
    by_hand = (name for name in ("opponent", "proposal_correction") if getattr(weights, name) != getattr(plain, name))
    return next(by_hand, None)


def proposal_of(pairs: Pairs, responses: Responses, correction: float) -> Proposal:
    """How the C responses came about: a sampled one as often as it was drawn, one of the data once.

    Args:
        correction: κ in [0, 1], `weights.proposal_correction`.

    Raises:
        ValueError: the sampler did not tell what the correction needs.
    """
    of_data = np.zeros(len(responses), dtype=bool)
    of_data[responses.chosen] = of_data[responses.rejected] = True
    sampled, draws, log_ratio = _sampled(pairs, correction)
    of_data[responses.candidates[~sampled]] = True
    response = responses.candidates[sampled]
    with np.errstate(divide="ignore"):
        log_mass = np.log(of_data.astype(np.float64))
    np.logaddexp.at(log_mass, response, np.log(draws) + log_ratio)
    return Proposal(of_data + np.bincount(response, draws, minlength=len(responses)), log_mass)


def weight_of_prompts(pairs: Pairs, table: PairTable) -> np.ndarray:
    """float64 [M]: mean of the weights that the data give to the labelled pairs of each prompt, 1 where they give none.

    So a prompt that the data leave out, by a weight of 0, is not brought back by pairs that are drawn for it.
    """
    prompts = int(table.prompt_of.max()) + 1
    total = np.bincount(table.prompt, pairs.weight, prompts)
    return total / np.maximum(np.bincount(table.prompt, minlength=prompts), 1)


def with_preferred(rows: Rows, pairs: Pairs, preferred: Preferred, texts: ResponseTexts) -> Rows:
    """The rows of the labelled pairs, and behind them those of the drawn ones, without candidates."""
    drawn = preferred.pairs
    both = rows.without_candidates().take(np.concatenate([pairs.row, texts.row[drawn.chosen]]))
    return replace(
        both,
        chosen=stored(chain(both.chosen[: len(pairs)], (texts.completion[i] for i in drawn.chosen))),
        rejected=stored(chain(both.rejected[: len(pairs)], (texts.completion[i] for i in drawn.rejected))),
    )


def _sampled(pairs: Pairs, correction: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool [K], which candidates were sampled; of these, how often, and κ (log π_ref - log μ)."""
    if pairs.candidates is None:
        return np.zeros(0, dtype=bool), np.zeros(0), np.zeros(0)
    columns = pairs.candidates.columns
    if "draws" not in columns:
        return np.zeros(len(pairs.candidates), dtype=bool), np.zeros(0), np.zeros(0)
    sampled = ~np.isnan(columns["draws"])
    draws = columns["draws"][sampled]
    if not correction:
        return sampled, draws, np.zeros(len(draws))
    log_ratio = correction * (columns["log_model"] - columns["log_mu"])[sampled]
    if np.isnan(log_ratio).any():
        raise ValueError(
            f"weights.proposal_correction is {correction}, but the sampler did not tell log-probs of the model itself: "
            "set candidates.backend to transformers, or proposal_correction to 0."
        )
    return sampled, draws, log_ratio
