"""How often each response was drawn, from a pipeline's candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logsumexp

from iwpo_fast.data.pairs import CandidateTokens, Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses
from iwpo_fast.pipeline.preferred import proposal_of, weight_of_prompts
from iwpo_fast.rewards import PairTable

NAN = float("nan")
# Two prompts of a pair each; to the first also [5], drawn three times, and [1], which is chosen and was drawn twice;
# to the second [7], which the data bring twice, and [8] once.
PAIRS = Pairs(
    prompt=Ragged.from_rows([[0], [9]]),
    chosen=Ragged.from_rows([[1], [3]]),
    rejected=Ragged.from_rows([[2], [4]]),
    weight=np.ones(2),
    candidates=CandidateTokens(
        Ragged.from_rows([[5], [1], [7], [7], [8]]),
        pair=np.array([0, 0, 1, 1, 1]),
        source=np.arange(5),
        columns={
            "draws": np.array([3, 2, NAN, NAN, NAN]),
            "log_mu": np.array([-5.0, -5, NAN, NAN, NAN]),
            "log_model": np.array([-7.0, -4, NAN, NAN, NAN]),
        },
    ),
)
RESPONSES = Responses.of(PAIRS)
DRAWN, CHOSEN, TWICE, _, ONCE = RESPONSES.candidates


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_a_response_counts_as_often_as_it_was_drawn_and_once_for_the_data(kappa) -> None:
    found = proposal_of(PAIRS, RESPONSES, kappa)
    assert found.draws[[DRAWN, CHOSEN, TWICE, ONCE]].tolist() == [3, 1 + 2, 1, 1]
    assert found.draws.sum() == 4 + 3 + 2 + 2
    assert found.log_mass[DRAWN] == pytest.approx(np.log(3) - 2 * kappa, rel=1e-12)
    assert found.log_mass[CHOSEN] == pytest.approx(logsumexp([0.0, np.log(2) + kappa]), rel=1e-12)
    assert np.all(found.log_mass[[TWICE, ONCE, RESPONSES.rejected[0]]] == 0)


def test_a_prompt_weighs_the_mean_of_what_the_data_give_its_pairs() -> None:
    rows = np.array([0, 0, 1])
    table = PairTable(np.array([1, 1, 0]), np.array([0, 0, 3]), np.array([1, 2, 4]), np.array([1, 1, 1, 0, 0]))
    weighted = replace(PAIRS.take(rows), weight=np.array([0.0, 3.0, 0.25]))
    assert weight_of_prompts(weighted, table).tolist() == [0.25, 1.5]
    assert weight_of_prompts(PAIRS.take(rows), table).tolist() == [1, 1]


def test_data_alone_count_once_each() -> None:
    bare = replace(PAIRS.candidates, columns={"score": np.zeros(5)})
    for pairs in (replace(PAIRS, candidates=None), replace(PAIRS, candidates=bare)):
        responses = Responses.of(pairs)
        found = proposal_of(pairs, responses, 0.0)
        assert np.all(found.draws == 1) and np.all(found.log_mass == 0) and len(found.draws) == len(responses)


def test_a_correction_without_log_probs_of_the_model_is_one_sentence() -> None:
    unknown = PAIRS.candidates.columns | {"log_model": np.full(5, NAN)}
    pairs = replace(PAIRS, candidates=replace(PAIRS.candidates, columns=unknown))
    assert np.isfinite(proposal_of(pairs, RESPONSES, 0.0).log_mass).all()
    with pytest.raises(ValueError, match=r"proposal_correction is 0\.5, but the sampler did not tell log-probs of the"):
        proposal_of(pairs, RESPONSES, 0.5)
