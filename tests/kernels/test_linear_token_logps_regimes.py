"""`linear_token_logps` where log-probs are extreme, logits large, tokens few or masked, in every dtype."""

from __future__ import annotations

import pytest
import torch
from linear_cases import REGIMES, assert_exact, assert_gradient_within, random_case, shrink_tiles

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_tiles(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pytorch_is_exact_in_every_regime(dtype: torch.dtype, regime: str, save: bool) -> None:
    for seed in range(5):
        assert_exact(REGIMES[regime](random_case(spread=3.0, seed=seed)), dtype, save=save)


KERNELS = [(torch.float32, False), (torch.float16, True), (torch.float16, False), (torch.bfloat16, True)]


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize(("dtype", "save"), KERNELS)
def test_kernels_are_exact_in_every_regime(device: torch.device, dtype: torch.dtype, regime: str, save: bool) -> None:
    assert_exact(REGIMES[regime](random_case(features=10, vocab=41, spread=3.0)), dtype, device, save=save)


def test_a_small_row_is_held_to_its_own_size() -> None:
    """And not to that of the largest, unless logits are large."""
    truth = torch.tensor([1e3, 1e-3])
    wrong = torch.tensor([1e3, 2e-3])
    assert_gradient_within("weight", wrong, truth, truth, torch.float32, largest_logit=30.0)
    with pytest.raises(AssertionError, match="weight"):
        assert_gradient_within("weight", wrong, truth, truth, torch.float32, largest_logit=4.0)
