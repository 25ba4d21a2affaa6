"""DRPO over the candidates of a row: its naive form, and what policy, judge and label may and may not change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_cases import at_reference, mixture_of, random_pair
from torch import Tensor

from iwpo_fast.objectives import Pair
from iwpo_fast.objectives.drpo import correction
from iwpo_fast.objectives.pair import Between

BETA, CLIP = 0.3, 1.7
MIXTURE = mixture_of("drpo", BETA, clip=CLIP)
P = 6


def rows(seed: int, between: int = 2, spread: float = 1.5) -> Pair:
    """Pairs with further candidates of each, of random log-ratios and scores."""
    pair, generator = random_pair(seed, spread=spread), torch.Generator().manual_seed(seed)
    ratios, scores = spread * torch.randn(2, P * between, generator=generator, dtype=torch.float64)
    reference = torch.full_like(ratios, -7.0)
    return replace(pair, between=Between(reference + ratios, torch.arange(P * between), between, reference, scores))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive(ratios: list[float], scores: list[float]) -> float:
    """Of one row: chosen first, rejected last."""
    total = sum(math.exp(ratio) for ratio in ratios)
    shares = [math.exp(ratio) / total for ratio in ratios]
    kl = sum(share * math.log(share * len(shares)) for share in shares)
    value = 0.0
    for own, other, label in ((0, -1, 1.0), (-1, 0, 0.0)):
        value += sum(share * sigmoid(score - scores[other]) for share, score in zip(shares, scores, strict=True)) / 2
        clipped = min(max(math.exp(ratios[own]), 1 / CLIP), CLIP)
        value += clipped * (label - sigmoid(scores[own] - scores[other])) / 2
    return BETA * kl - value


def in_lists(pair: Pair) -> tuple[list[list[float]], list[list[float]]]:
    return pair.in_order("s")[0].tolist(), pair.in_order("reward")[0].tolist()


def test_the_loss_is_its_naive_form() -> None:
    pair = rows(0)
    expected = [naive(ratios, scores) for ratios, scores in zip(*in_lists(pair), strict=True)]
    assert MIXTURE(pair, {}).tolist() == pytest.approx(expected, rel=1e-12)
    assert any(abs(s) > math.log(CLIP) for s in pair.chosen.s.tolist()), "the clip was not tried"


def test_a_row_of_a_pair_alone_is_two_candidates() -> None:
    pair = random_pair(1, spread=1.5)
    expected = [naive(ratios, scores) for ratios, scores in zip(*in_lists(pair), strict=True)]
    assert MIXTURE(pair, {}).tolist() == pytest.approx(expected, rel=1e-12)


def test_places_without_a_candidate_change_nothing() -> None:
    pair, few = rows(2), torch.tensor([0, 3, 4, 5, 8, 11])
    assert pair.between is not None and pair.between.rewards is not None and pair.between.ref_logp is not None
    parts = {name: getattr(pair.between, name)[few] for name in ("logp", "ref_logp", "rewards")}
    fewer = replace(pair, between=replace(pair.between, place=few, **parts))
    values, there = fewer.in_order("s")
    scores, _ = fewer.in_order("reward")
    kept = [
        ([v for v, t in zip(*row[:2], strict=True) if t], [s for s, t in zip(row[2], row[1], strict=True) if t])
        for row in zip(values.tolist(), there.tolist(), scores.tolist(), strict=True)
    ]
    assert MIXTURE(fewer, {}).tolist() == pytest.approx([naive(*row) for row in kept], rel=1e-12)
    assert {len(ratios) for ratios, _ in kept} == {2, 3, 4}


def test_the_correction_has_the_gradient_of_the_authors_code_and_the_rest_its_own() -> None:
    pair = rows(3)

    def of_chosen(logp: Tensor) -> Pair:
        return replace(pair, chosen=replace(pair.chosen, logp=logp))

    def rest(logp: Tensor) -> Tensor:
        return MIXTURE(of_chosen(logp), {}) + correction(of_chosen(logp), CLIP)

    logp = pair.chosen.logp.clone().requires_grad_()
    assert torch.autograd.gradcheck(rest, logp)
    (found,) = torch.autograd.grad(correction(of_chosen(logp), CLIP).sum(), logp)
    expected = torch.sigmoid(-pair.reward_gap) * pair.chosen.s.exp().clamp(1 / CLIP, CLIP) / 2
    torch.testing.assert_close(found, expected)


def test_where_the_judge_is_right_about_labels_the_correction_is_nothing_on_average() -> None:
    pair = rows(4)
    right = torch.sigmoid(pair.reward_gap)
    mean = right * correction(pair, CLIP) + (1 - right) * correction(pair.swapped(), CLIP)
    torch.testing.assert_close(mean, torch.zeros(P, dtype=torch.float64), rtol=0, atol=1e-14)
    assert correction(pair, CLIP).abs().max() > 0.1


def test_at_the_reference_candidates_count_alike_and_no_pair_is_corrected() -> None:
    given = rows(5)
    assert given.between is not None and given.between.ref_logp is not None
    between = replace(given.between, logp=given.between.ref_logp)
    pair = replace(at_reference(given), between=between)
    _, scores = in_lists(pair)
    of_row = [sum(sigmoid(s - y) for s in row for y in (row[0], row[-1])) / (2 * len(row)) for row in scores]
    assert MIXTURE(pair, {}).tolist() == pytest.approx([-value for value in of_row], rel=1e-12)


def test_a_constant_of_all_scores_or_of_the_order_of_candidates_changes_nothing() -> None:
    pair = rows(6)
    assert pair.between is not None and pair.between.rewards is not None and pair.between.ref_logp is not None
    expected = MIXTURE(pair, {})
    sides = {
        name: replace(side, rewards=side.family + 3.0)
        for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected))
    }
    shifted = replace(pair, between=replace(pair.between, rewards=pair.between.rewards + 3.0), **sides)
    torch.testing.assert_close(MIXTURE(shifted, {}), expected)
    turned = torch.arange(2 * P).view(P, 2).flip(1).reshape(-1)
    other = {name: getattr(pair.between, name)[turned] for name in ("logp", "ref_logp", "rewards")}
    torch.testing.assert_close(MIXTURE(replace(pair, between=replace(pair.between, **other)), {}), expected)


def test_a_flipped_label_is_the_pair_turned_around() -> None:
    pair, smoothing = rows(7), torch.linspace(0, 0.5, P).double()
    expected = (1 - smoothing) * MIXTURE(pair, {}) + smoothing * MIXTURE(pair.swapped(), {})
    torch.testing.assert_close(MIXTURE(pair, {}, smoothing), expected)


def test_a_clip_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="clip"):
        mixture_of("drpo", clip=0.5)
