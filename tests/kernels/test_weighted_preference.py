"""The weighted preference loss against its float64 specification, in PyTorch and in Triton."""

from __future__ import annotations

import math

import pytest
import torch
from preference_cases import LOSSES, Case, offsets, random_case

from iwpo_kernels import PreferenceSums, weighted_preference_loss
from iwpo_kernels.weighted_preference.types import PairLoss

LENGTHS = {
    "usual": (17, 200, 1, 64, 90, 33, 128, 5),
    "longer than a block": (3000, 1025, 8192, 1024, 2047, 1023, 2048, 7),
    "some empty": (0, 12, 7, 0, 0, 3, 0, 4),
    "one token each": (1,) * 8,
}


@pytest.fixture(params=["pytorch", "triton"])
def place(request: pytest.FixtureRequest) -> torch.device:
    """The CPU path, then the kernels: on a GPU, else in the interpreter."""
    return torch.device("cpu") if request.param == "pytorch" else request.getfixturevalue("device")


def assert_close(ours: torch.Tensor, truth: torch.Tensor) -> None:
    error = (ours.double().cpu() - truth).abs()
    assert (error <= 5e-6 * (1 + truth.abs())).all(), (ours, truth)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_loss_and_gradient_are_those_of_the_specification(name, lengths, place) -> None:
    case = random_case(lengths, **LOSSES[name])
    truth, true_gradient = case.to(torch.float64).naive_loss_and_gradient()
    _, plain_gradient = case.naive_loss_and_gradient()
    loss, gradient = case.to(place).loss_and_gradient()
    assert loss.dtype == torch.float32
    assert_close(loss, truth)
    allowed = 2 * (plain_gradient - true_gradient).abs().max() + 1e-6 * true_gradient.abs().max()
    assert (gradient.cpu() - true_gradient).abs().max() <= allowed


def expected_sums(case: Case) -> PreferenceSums:
    """The sums by their definitions, in float64."""
    logps = torch.stack([part.sum() for part in case.logps.split(case.segments.diff().tolist())])
    rewards = case.options.get("beta", 0.1) * (logps - case.ref_logps)
    (chosen, rejected), (chosen_logps, rejected_logps) = rewards.chunk(2), logps.chunk(2)
    without_weights = case.having(weights=None, denominator=1.0)
    return PreferenceSums(
        pairs=torch.tensor(float(len(chosen))),
        weights=case.weights.sum(),
        squared_weights=case.weights.square().sum(),
        weighted_loss=case.having(denominator=1.0).naive(),
        loss=without_weights.naive(),
        chosen_rewards=chosen.sum(),
        rejected_rewards=rejected.sum(),
        margins=(chosen - rejected).sum(),
        correct=torch.heaviside(chosen - rejected, torch.tensor(0.5, dtype=chosen.dtype)).sum(),
        chosen_logps=chosen_logps.sum(),
        rejected_logps=rejected_logps.sum(),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_sums_are_those_of_their_definitions(name, place) -> None:
    case = random_case(LENGTHS["usual"], **LOSSES[name])
    sums = case.to(place).loss().sums
    for key, truth in expected_sums(case.to(torch.float64))._asdict().items():
        value = getattr(sums, key)
        assert value.dtype == torch.float64 and value.shape == ()
        assert_close(value, truth.double())


def test_sequence_log_probs_are_sums_over_tokens_without_gradient(place) -> None:
    case = random_case(LENGTHS["longer than a block"])
    truth = torch.stack([part.sum() for part in case.logps.double().split(list(LENGTHS["longer than a block"]))])
    output = case.having(logps=case.logps.requires_grad_()).to(place).loss()
    assert output.loss.requires_grad
    assert not output.sequence_logps.requires_grad
    assert not any(value.requires_grad for value in output.sums)
    torch.testing.assert_close(output.sequence_logps.cpu(), truth.float(), rtol=0, atol=0)


def test_a_tie_counts_half(place) -> None:
    case = Case(torch.tensor([-2.0, -3.0, -2.0, -4.0]), offsets((1, 1, 1, 1)))
    assert case.to(place).loss().sums.correct == 1.5


def test_no_reference_is_a_reference_of_zeros(place) -> None:
    case = random_case(LENGTHS["usual"])
    zeros = case.having(ref_logps=torch.zeros(8)).to(place).loss_and_gradient()
    torch.testing.assert_close(case.having(ref_logps=None).to(place).loss_and_gradient(), zeros, rtol=0, atol=0)


def test_the_upstream_gradient_multiplies_the_gradient(place) -> None:
    case = random_case(LENGTHS["usual"]).to(place)
    logps = case.logps.requires_grad_()
    loss = case.having(logps=logps).loss().loss
    (gradient,) = torch.autograd.grad(-3 * loss, logps)
    torch.testing.assert_close(gradient, -3 * case.loss_and_gradient()[1])


@pytest.mark.parametrize("denominator", [7, 2.5, torch.tensor(2.5), torch.tensor(2.5, dtype=torch.float64)])
def test_the_denominator_divides_loss_and_gradient(denominator, place) -> None:
    case = random_case(LENGTHS["usual"])
    loss, gradient = case.having(denominator=1).loss_and_gradient()
    divided, divided_gradient = case.having(denominator=denominator).to(place).loss_and_gradient()
    assert divided.dtype == torch.float32
    torch.testing.assert_close(divided.cpu(), loss / float(denominator))
    torch.testing.assert_close(divided_gradient.cpu(), gradient / float(denominator))


def test_lengths_are_the_divisors_of_the_average(place) -> None:
    case = random_case((4, 6, 5, 3), average=True)
    logps = case.logps.clone()
    masked = [1, 2, 3, 5, 12, 15, 16, 17]  # all of the last sequence
    logps[masked] = 0
    lengths = torch.tensor([1, 5, 4, 0])
    kept = [token for token in range(18) if token not in masked]
    truth, gradient = (
        Case(logps[kept], offsets(lengths.tolist()), case.ref_logps, case.weights, case.options)
        .to(torch.float64)
        .naive_loss_and_gradient()
    )
    ours, our_gradient = case.having(logps=logps, lengths=lengths).to(place).loss_and_gradient()
    assert_close(ours, truth)
    torch.testing.assert_close(our_gradient[kept].double().cpu(), gradient)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("extreme", [1e4, 1e15])
def test_extreme_margins_stay_finite(name, extreme, place) -> None:
    logps = torch.tensor([-extreme, -1.0, -1.0, -1.0, -1.0, -extreme, -1.0, -2.0])
    options = {key: 0.25 if isinstance(value, torch.Tensor) else value for key, value in LOSSES[name].items()}
    case = Case(logps, offsets((1,) * 8), options=options)
    loss, gradient = case.to(place).loss_and_gradient()
    truth, true_gradient = case.to(torch.float64).naive_loss_and_gradient()
    assert loss.isfinite() and gradient.isfinite().all()
    assert_close(loss, truth)
    torch.testing.assert_close(gradient.double().cpu(), true_gradient, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("form", ["sigmoid", "squared", "hinge"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf, -1e38])
def test_a_pair_of_weight_0_takes_no_part_whatever_its_log_probs(form, bad, place) -> None:
    weights = torch.tensor([1.5, 0.0, 2.0])
    clean = random_case((5, 4, 3, 2, 6, 1), form=form, denominator=3).having(weights=weights)
    logps = clean.logps.clone()
    logps[5:9] = bad
    loss, gradient = clean.to(place).loss_and_gradient()
    bad_loss, bad_gradient = clean.having(logps=logps).to(place).loss_and_gradient()
    assert torch.equal(bad_loss, loss)
    assert torch.equal(bad_gradient, gradient)
    assert (bad_gradient[5:9] == 0).all()


@pytest.mark.parametrize("form", ["sigmoid", "hinge"])
@pytest.mark.parametrize("smoothing", [None, 0.0, torch.zeros(1)], ids=str)
def test_a_rejected_completion_that_is_impossible_costs_nothing_where_no_label_is_flipped(
    form, smoothing, place
) -> None:
    case = random_case((2, 3), form=form, label_smoothing=smoothing)
    logps = case.logps.clone()
    logps[2:] = -math.inf
    loss, gradient = case.having(logps=logps).to(place).loss_and_gradient()
    assert loss == 0 and (gradient == 0).all()
    flipped = random_case((2, 3), form=form, label_smoothing=0.1).having(logps=logps)
    assert flipped.to(place).loss().loss == math.inf


def test_log_probs_that_are_nan_make_the_loss_nan(place) -> None:
    case = random_case((5, 4), form="hinge")
    logps = case.logps.clone()
    logps[2] = math.nan
    assert case.having(logps=logps).to(place).loss().loss.isnan()


def test_no_supervised_token_at_all_is_margin_0_and_an_empty_gradient(place) -> None:
    case = Case(torch.zeros(0), offsets((0, 0)))
    loss, gradient = case.to(place).loss_and_gradient()
    assert loss.item() == pytest.approx(math.log(2))
    assert gradient.shape == (0,)


@pytest.mark.usefixtures("no_help_to_repeat")
def test_results_repeat_bitwise(place) -> None:
    case = random_case(LENGTHS["longer than a block"], label_smoothing=0.1).to(place)
    loss, gradient = case.loss_and_gradient()
    sums = torch.stack(case.loss().sums)
    for _ in range(3):
        again, gradient_again = case.loss_and_gradient()
        assert torch.equal(again, loss) and torch.equal(gradient_again, gradient)
        assert torch.equal(torch.stack(case.loss().sums), sums)


def test_inputs_need_not_be_contiguous(place) -> None:
    case = random_case(LENGTHS["usual"], label_smoothing=torch.rand(4)).to(place)

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor, torch.zeros_like(tensor)], dim=1)[:, 0]

    strided = Case(
        spread(case.logps),
        spread(case.segments),
        spread(case.ref_logps),
        spread(case.weights),
        {"label_smoothing": spread(case.options["label_smoothing"])},
    )
    torch.testing.assert_close(strided.loss_and_gradient(), case.loss_and_gradient(), rtol=0, atol=0)


@pytest.mark.parametrize("segments", [[0, 3, 9], [-2, 3, 6], [1, 3, 6], [0, 3, 5], [0, 4, 2], [2**40, 3, 6]])
def test_offsets_out_of_range_make_the_kernels_answer_nan_without_reading_there(segments, device) -> None:
    from iwpo_kernels.weighted_preference import gpu

    logps = random_case((3, 3)).logps.to(device)
    loss = PairLoss("sigmoid", slope=0.1, shift=0.0, smoothing=0.0, beta=0.1, average=False)
    out = gpu.forward(logps, torch.tensor(segments, device=device), None, None, None, loss)
    assert out.sums[PreferenceSums._fields.index("weighted_loss")].isnan()


def test_tokens_of_no_sequence_have_gradient_0_in_the_kernels(device) -> None:
    from iwpo_kernels.weighted_preference import gpu

    one, coefficients = torch.ones((), device=device), torch.tensor([2.0, 3.0], device=device)
    gradient = gpu.token_gradient(one, coefficients, torch.tensor([1, 2, 4], device=device), 6)
    assert gradient.tolist() == [0, 2, 3, 3, 0, 0]


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:
    case = random_case(LENGTHS["usual"], label_smoothing=torch.full((4,), 0.1)).to(torch.device("cuda"))
    case.loss_and_gradient()
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.loss_and_gradient()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_tie_within_rounding_counts_half_and_beyond_it_not(place) -> None:
    segments = torch.arange(9, device=place)
    logps = torch.full((8,), -100.0, device=place)
    ref_logps = logps.clone()
    ref_logps[1] += 100 * 2.0**-20  # half of what may be rounding
    ref_logps[2] -= 1e-3
    ref_logps[3] += 1e-3
    sums = weighted_preference_loss(logps, segments, ref_logps).sums
    assert sums.correct == 0.5 + 0.5 + 1 + 0
