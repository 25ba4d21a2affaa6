"""What the plan of a run says before its first step."""

from __future__ import annotations

import dataclasses

import pytest

from iwpo_fast.training import train


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "flat batches with each prompt once (the model can), attention: sdpa_by_length"),
        ({"attention": "eager_by_length"}, "attention: eager_by_length (asked for)"),
        (
            {"batch_layout": "padded"},
            "(asked for), attention: sdpa (the model's own)",
        ),
    ],
    ids=["auto", "asked_for", "padded"],
)
def test_the_plan_says_how_attention_is_computed_and_why(config, capsys, options, words) -> None:
    base = config()
    model, optim = dataclasses.replace(base.model, **options), dataclasses.replace(base.optim, max_steps=1)
    train(dataclasses.replace(base, model=model, optim=optim))
    assert f"{words}\n" in capsys.readouterr().out
