"""Margins of held-out pairs are kept where they are numbers, and for the pairs that they are of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from iwpo_fast.training.held_out_margins import Margins, keep_margins, kept_margins


def pairs_named(name: str) -> Any:
    return SimpleNamespace(token_fingerprint=lambda: name)


def test_what_is_kept_is_that_of_the_same_pairs_and_step(tmp_path) -> None:
    margins = Margins(torch.tensor([0.5, -1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    keep_margins(tmp_path, 3, pairs_named("a"), margins)
    found = kept_margins(tmp_path, 3, pairs_named("a"))
    assert found is not None and all(map(torch.equal, found, margins))
    assert kept_margins(tmp_path, 3, pairs_named("b")) is None and kept_margins(tmp_path, 4, pairs_named("a")) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 1])
def test_nothing_that_is_not_finite_is_kept(tmp_path, bad, where) -> None:
    values = torch.ones(2, 3, dtype=torch.float64)
    values[where, 1] = bad
    keep_margins(tmp_path, 1, pairs_named("a"), Margins(*values))
    assert list(tmp_path.iterdir()) == []
