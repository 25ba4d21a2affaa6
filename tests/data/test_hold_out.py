from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iwpo_fast.data import read_rows
from iwpo_fast.data.hold_out import hold_out

few = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30)


@pytest.mark.slow
@given(few, st.floats(0, 0.9))
def test_a_prompt_is_on_one_side_and_stays_there_whatever_else_is_in_the_data(prompts, fraction) -> None:
    held_out = hold_out(prompts, None, fraction)
    alone = [hold_out([prompt], None, fraction)[0] for prompt in prompts]
    # Only where no prompt is due, one is held out all the same.
    assert held_out.tolist() == alone or not any(alone)


@given(few, st.floats(0.001, 0.9))
def test_a_positive_fraction_of_two_prompts_holds_out_one_at_least(prompts, fraction) -> None:
    held_out = hold_out(prompts, None, fraction)
    sides = set(zip(prompts, held_out.tolist(), strict=True))
    assert len(sides) == len(set(prompts))
    if len(sides) > 1:
        assert any(out for _, out in sides)


def test_the_one_prompt_held_out_of_a_few_is_the_same_in_any_order() -> None:
    prompts = [f"prompt {i}" for i in range(5)]
    out = hold_out(prompts, None, 1e-6)
    assert out.sum() == 1
    assert hold_out(prompts[::-1], None, 1e-6).tolist() == out[::-1].tolist()
    assert not hold_out(prompts, None, 0.0).any()
    assert not hold_out(["same", "same"], None, 1e-6).any()


@pytest.mark.slow
@given(few, st.data())
def test_a_prompt_under_several_ids_is_never_on_both_sides(prompts, data) -> None:
    ids = data.draw(st.lists(st.integers(0, 9), min_size=len(prompts), max_size=len(prompts)))
    held_out = hold_out(prompts, ids, 0.5)
    sides = list(zip(prompts, held_out, strict=True))
    assert not {p for p, out in sides if out} & {p for p, out in sides if not out}


def test_about_the_asked_fraction_of_prompts_is_held_out() -> None:
    held_out = hold_out([f"prompt {i}" for i in range(20_000)], None, 0.05)
    assert abs(held_out.mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 20_000)


def test_prompts_of_one_id_stay_together() -> None:
    prompts = [f"prompt {i}" for i in range(200)]
    held_out = hold_out(prompts, [i // 2 for i in range(200)], 0.5)
    assert (held_out[::2] == held_out[1::2]).all()
    assert 0 < held_out.sum() < 200


def test_conversations_are_held_out_by_their_prompt_messages() -> None:
    prompts = [[{"role": "user", "content": f"prompt {i // 2}"}] for i in range(200)]
    held_out = hold_out(prompts, None, 0.5)
    assert (held_out[::2] == held_out[1::2]).all()
    assert 0 < held_out.sum() < 200


def rows(count: int) -> list[dict]:
    return [{"prompt": f"prompt {i}", "chosen": "a", "rejected": "b", "weight": float(i)} for i in range(count)]


def test_rows_and_their_columns_are_parted_together(write) -> None:
    train, evaluation = read_rows(write(rows(200), eval_fraction=0.3))
    assert len(train) + len(evaluation) == 200
    for part in (train, evaluation):
        assert part.prompt == [f"prompt {int(w)}" for w in part.columns["weight"]]
        assert part.numbers.tolist() == [int(w) + 1 for w in part.columns["weight"]]


def test_fraction_zero_holds_nothing_out(write) -> None:
    train, evaluation = read_rows(write(rows(20), eval_fraction=0.0))
    assert evaluation is None
    assert len(train) == 20


def test_holding_everything_out_is_refused(write) -> None:
    with pytest.raises(ValueError, match=r"eval_fraction 0\.999 holds out all"):
        read_rows(write(rows(1), eval_fraction=0.999))


def test_rows_left_out_before_the_split_count_on_the_training_side_only(write) -> None:
    pair = rows(1)[0] | {"prompt": None}
    apart = pair | {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: y\n\nAssistant: b"}
    train, evaluation = read_rows(write([*rows(50), apart], eval_fraction=0.5, on_prefix_mismatch="drop"))
    assert (train.mismatches, evaluation.mismatches) == (1, 0)
    assert (train.source, evaluation.source) == ("pairs.jsonl", "pairs.jsonl, held out")
