import math

import pytest
import torch

from iwpo_fast.objectives import OBJECTIVES, get_objective
from iwpo_kernels import weighted_preference_loss

H = torch.linspace(-4, 4, 9, dtype=torch.float64)


def test_values_at_margin_zero():
    zero = torch.zeros(1, dtype=torch.float64)
    assert OBJECTIVES["sigmoid"].loss(zero, 0.1).item() == pytest.approx(math.log(2))
    assert OBJECTIVES["ipo"].loss(zero, 0.5).item() == pytest.approx(1.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_agree_with_central_differences(name):
    h = H.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda h: OBJECTIVES[name].loss(h, 0.3), h)


def test_gradients_are_the_closed_forms():
    h = H.clone().requires_grad_()
    beta = 0.3
    (dpo,) = torch.autograd.grad(OBJECTIVES["sigmoid"].loss(h, beta).sum(), h)
    torch.testing.assert_close(dpo, -beta * torch.sigmoid(-beta * H))
    (ipo,) = torch.autograd.grad(OBJECTIVES["ipo"].loss(h, beta).sum(), h)
    torch.testing.assert_close(ipo, 2 * (H - 1 / (2 * beta)))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_extreme_margins_stay_finite_in_float32(name, extreme):
    h = torch.tensor([extreme], requires_grad=True)
    loss = OBJECTIVES[name].loss(h, 0.1).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(h.grad).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_fused_loss_equals_the_objective_with_weights_and_smoothing_around_it(name):
    objective = get_objective(name)
    torch.manual_seed(0)
    lengths = torch.tensor([3, 5, 2, 4, 1, 6])
    segments = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    logps, reference = -torch.rand(int(lengths.sum())), -3 * torch.rand(6)
    weights, smoothing = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0.0, 0.1, 0.4])
    fused = weighted_preference_loss(
        logps,
        segments,
        reference,
        weights,
        form=objective.form,
        beta=0.3,
        label_smoothing=smoothing,
        average=objective.average,
    )
    scores = torch.stack([part.sum() for part in logps.split(lengths.tolist())]) - reference
    if objective.average:
        scores = scores / lengths
    h = scores[:3] - scores[3:]
    losses = (1 - smoothing) * objective.loss(h, 0.3) + smoothing * objective.loss(-h, 0.3)
    torch.testing.assert_close(fused.loss, (weights * losses).mean())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"dpoo.*ipo, sigmoid"):
        get_objective("dpoo")
