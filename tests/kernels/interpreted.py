"""Which tests run kernels in Triton's interpreter where there is no GPU, and which of them are quick."""

from __future__ import annotations

from pathlib import Path

import pytest

QUICK = {
    "test_index_sums.py": ("",),
    "test_linear_preference.py": ("test_triton_and_pytorch_agree",),
    "test_linear_token_logps.py": (
        "test_features_beyond_one_block",
        "test_frozen_head_gives_hidden_its_gradient[kernels-dtype2]",
        "test_backward_can_be_repeated",
        "test_label_without_rivals_has_log_prob_zero",
        "test_single_token",
    ),
    "test_linear_token_logps_epilogue.py": (
        "test_one_token_and_one_column",
        "test_every_tile_is_made_once",
        "test_the_host_waits_for_nothing",
        "test_what_is_not_served_is_refused",
    ),
    "test_token_logps.py": ("test_any_strides", "test_skipped_rows_are_not_read", "test_no_tokens"),
    "test_weighted_preference.py": ("test_sums_are_those_of_their_definitions", "test_offsets_out_of_range"),
}
"""Beginnings of the names of those that `make test-fast` runs: between them they launch every kernel."""


def is_interpreted(item: pytest.Item) -> bool:
    """Whether a test of this folder asks for `device`, by itself or by one of its parameters."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    asked = {*getattr(item, "fixturenames", ())} - parameters.keys()
    asked |= {value for value in parameters.values() if isinstance(value, str)}
    return item.path.parent == Path(__file__).parent and not asked.isdisjoint({"device", "kernels", "triton"})


def is_quick(item: pytest.Item) -> bool:
    return item.name.startswith(QUICK.get(item.path.name, ()))
