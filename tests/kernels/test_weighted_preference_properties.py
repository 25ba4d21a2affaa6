"""What holds for every batch, whatever its lengths, weights and labels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_cases import LOSSES, Case, offsets, random_case
from torch import Tensor

quickly = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
all_losses = pytest.mark.parametrize("name", LOSSES)


@st.composite
def cases(draw: st.DrawFn, name: str, max_pairs: int = 5) -> Case:
    """Float64 cases of a named loss; options per pair are drawn for as many pairs as there are."""
    pairs = draw(st.integers(1, max_pairs))
    lengths = draw(st.lists(st.integers(0, 9), min_size=2 * pairs, max_size=2 * pairs))
    seed = draw(seeds)
    generator = torch.Generator().manual_seed(seed)
    options = {
        key: torch.rand(pairs, generator=generator) if isinstance(value, Tensor) else value
        for key, value in LOSSES[name].items()
    }
    return random_case(lengths, seed, **options).to(torch.float64)


def select(case: Case, pairs: list[int]) -> Case:
    """The given pairs, in that order."""
    count = case.segments.shape[0] // 2
    sequences = pairs + [count + pair for pair in pairs]
    lengths = case.segments.diff().tolist()
    parts = case.logps.split(lengths)
    options = {k: v[pairs] if isinstance(v, Tensor) else v for k, v in case.options.items()}
    return Case(
        torch.cat([parts[s] for s in sequences]),
        offsets([lengths[s] for s in sequences]),
        case.ref_logps[sequences],
        case.weights[pairs],
        options,
    )


def by_sequence(case: Case, gradient: Tensor) -> list[Tensor]:
    return list(gradient.split(case.segments.diff().tolist()))


@pytest.mark.slow
@all_losses
def test_weights_scale_loss_and_gradient_linearly(name) -> None:
    @quickly
    @given(cases(name), st.floats(0, 100))
    def holds(case: Case, factor: float) -> None:
        loss, gradient = case.loss_and_gradient()
        scaled, scaled_gradient = case.having(weights=factor * case.weights).loss_and_gradient()
        torch.testing.assert_close(scaled, factor * loss)
        torch.testing.assert_close(scaled_gradient, factor * gradient)

    holds()


@pytest.mark.slow
@all_losses
def test_the_order_of_the_pairs_does_not_matter(name) -> None:
    @quickly
    @given(cases(name), st.randoms(use_true_random=False))
    def holds(case: Case, random) -> None:
        order = list(range(len(case.weights)))
        random.shuffle(order)
        shuffled = select(case, order)
        torch.testing.assert_close(shuffled.loss().loss, case.loss().loss)
        parts = by_sequence(case, case.loss_and_gradient()[1])
        expected = [parts[s] for s in order + [len(order) + pair for pair in order]]
        torch.testing.assert_close(shuffled.loss_and_gradient()[1], torch.cat(expected))

    holds()


@pytest.mark.slow
@all_losses
def test_swapping_chosen_and_rejected_is_flipping_the_label(name) -> None:
    @quickly
    @given(cases(name), st.floats(0.01, 0.99))
    def holds(case: Case, eps: float) -> None:
        pairs = len(case.weights)
        parts = list(case.logps.split(case.segments.diff().tolist()))
        swapped = Case(
            torch.cat(parts[pairs:] + parts[:pairs]),
            offsets([len(part) for part in parts[pairs:] + parts[:pairs]]),
            case.ref_logps.roll(pairs),
            case.weights,
            case.options | {"label_smoothing": 1 - eps},
        )
        case = case.having(label_smoothing=eps)
        torch.testing.assert_close(swapped.loss().loss, case.loss().loss)
        parts = by_sequence(case, case.loss_and_gradient()[1])
        torch.testing.assert_close(swapped.loss_and_gradient()[1], torch.cat(parts[pairs:] + parts[:pairs]))

    holds()


@pytest.mark.slow
@all_losses
def test_weight_0_is_as_if_the_pair_were_not_there(name) -> None:
    @quickly
    @given(cases(name, max_pairs=4), seeds)
    def holds(case: Case, seed: int) -> None:
        pairs = len(case.weights)
        kept = (torch.rand(pairs, generator=torch.Generator().manual_seed(seed)) < 0.5).nonzero()[:, 0].tolist() or [0]
        weights = torch.zeros_like(case.weights).index_copy(0, torch.tensor(kept), case.weights[kept])
        fewer = select(case, kept).having(denominator=pairs)
        loss, gradient = case.having(weights=weights).loss_and_gradient()
        torch.testing.assert_close(loss, fewer.loss().loss)
        parts = by_sequence(case, gradient)
        expected = by_sequence(fewer, fewer.loss_and_gradient()[1])
        for place, s in enumerate(kept + [pairs + pair for pair in kept]):
            torch.testing.assert_close(parts[s], expected[place])
        gone = [pair for pair in range(pairs) if pair not in kept]
        assert all((parts[s] == 0).all() for s in gone + [pairs + pair for pair in gone])

    holds()


@pytest.mark.slow
@all_losses
def test_a_batch_in_parts_adds_up_to_the_batch(name) -> None:
    @quickly
    @given(cases(name), st.integers(1, 4))
    def holds(case: Case, cut: int) -> None:
        pairs = len(case.weights)
        parts = [part for part in (list(range(min(cut, pairs))), list(range(cut, pairs))) if part]
        outputs = [select(case, part).having(denominator=float(pairs)).loss() for part in parts]
        whole = case.loss()
        torch.testing.assert_close(sum(output.loss for output in outputs), whole.loss)
        for key, total in whole.sums._asdict().items():
            torch.testing.assert_close(sum(getattr(output.sums, key) for output in outputs), total)

    holds()


@all_losses
@pytest.mark.parametrize("path", ["pytorch", "triton"])
def test_weights_of_1_and_smoothing_of_0_change_nothing_bitwise(name, path, request) -> None:
    place = torch.device("cpu") if path == "pytorch" else request.getfixturevalue("device")
    case = random_case((5, 0, 1, 7, 9, 3, 8, 2), **LOSSES[name])
    absent = case.having(weights=None, label_smoothing=None).to(place)
    ones = case.having(weights=torch.ones(4), label_smoothing=torch.zeros(4)).to(place)
    for ours, same in zip(ones.loss_and_gradient(), absent.loss_and_gradient(), strict=True):
        assert torch.equal(ours, same)
    assert torch.equal(torch.stack(ones.loss().sums), torch.stack(absent.loss().sums))
    assert torch.equal(
        case.having(label_smoothing=0.0).to(place).loss().loss, case.having(label_smoothing=None).to(place).loss().loss
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_central_differences(name) -> None:
    case = random_case((3, 2, 0, 4, 1, 5, 2, 3), seed=1, **LOSSES[name]).to(torch.float64)
    logps = case.logps.requires_grad_()
    assert torch.autograd.gradcheck(lambda logps: case.having(logps=logps).naive(), logps)
    assert torch.autograd.gradcheck(lambda logps: case.having(logps=logps).loss().loss, logps)


def test_distillation_to_a_gap_of_one_half_is_ipo_of_sums_times_beta_squared() -> None:
    case = random_case((3, 2, 6, 4), form="squared", beta=0.3)
    torch.testing.assert_close(case.having(target=0.5).loss().loss, 0.3**2 * case.loss().loss)


def test_the_minimum_of_a_soft_label_is_where_beta_h_is_its_logit() -> None:
    eps, beta = 0.2, 0.5
    h = torch.logit(torch.tensor(1 - eps, dtype=torch.float64)) / beta
    case = Case(torch.stack([h, torch.zeros_like(h)]), offsets((1, 1)), options={"beta": beta, "label_smoothing": eps})
    assert case.loss_and_gradient()[1].abs().max() < 1e-12


def test_no_gradient_reaches_weights_reference_or_labels() -> None:
    case = random_case((3, 2, 6, 4), label_smoothing=torch.full((2,), 0.1), margin=torch.zeros(2))
    constants = [case.weights, case.ref_logps, *case.options.values()]
    for tensor in constants:
        tensor.requires_grad_()
    assert not case.loss().loss.requires_grad
    loss = case.having(logps=case.logps.requires_grad_()).loss().loss
    assert torch.autograd.grad(loss, constants, allow_unused=True) == (None,) * len(constants)
