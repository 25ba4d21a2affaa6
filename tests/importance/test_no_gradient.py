from __future__ import annotations

import numpy as np
import torch
from importance_cases import FULL, make_rewards

from iwpo_fast.importance import pair_weights
from iwpo_kernels import weighted_preference_loss


def test_no_gradient_reaches_weights_or_label_smoothing_through_the_loss() -> None:
    made = pair_weights(make_rewards(0, pairs=8, clusters=2), FULL, seed=0)
    assert isinstance(made.weight, np.ndarray) and isinstance(made.label_smoothing, np.ndarray)
    weight, smoothing = (torch.from_numpy(each).requires_grad_() for each in (made.weight, made.label_smoothing))
    logps = torch.randn(48, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    segments = torch.arange(0, 49, 3)
    loss = weighted_preference_loss(logps, segments, None, weight, label_smoothing=smoothing).loss
    loss.backward()
    assert logps.grad is not None and bool(logps.grad.any())
    assert weight.grad is None and smoothing.grad is None
