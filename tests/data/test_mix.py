"""Several data sets, trained on together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from iwpo_fast.config import MixedConfig
from iwpo_fast.data import read_rows

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def other(folder: Path, rows, name: str = "other.jsonl", **settings) -> MixedConfig:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return MixedConfig(path=str(folder / name), **settings)


def test_rows_of_all_sets_come_in_order_each_read_by_its_own_settings(write, tmp_path) -> None:
    more = other(tmp_path, [{"question": "r", "good": "c", "bad": "d"}] * 3, limit=2)
    more.columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    rows = read_rows(write([{"p": "q", "chosen": "a", "rejected": "b"}], columns={"prompt": "p"}, mix=[more]))[0]
    assert (rows.prompt, rows.chosen, rows.rejected) == (["q", "r", "r"], ["a", "c", "c"], ["b", "d", "d"])
    assert rows.source == "pairs.jsonl and other.jsonl"
    assert [rows.where(i) for i in range(3)] == [
        "In pairs.jsonl, row 1",
        "In other.jsonl, row 1",
        "In other.jsonl, row 2",
    ]
    assert rows.columns == {}


def test_the_weight_of_a_set_multiplies_those_of_its_pairs(write, tmp_path) -> None:
    half = other(tmp_path, [PAIR | {"weight": 4.0}, PAIR | {"weight": 1.0}], weight=0.5)
    assert read_rows(write([PAIR], mix=[half]))[0].columns["weight"].tolist() == [1.0, 2.0, 0.5]
    plain = other(tmp_path, [PAIR], weight=3.0)
    assert read_rows(write([PAIR | {"weight": 2.0}], mix=[plain]))[0].columns["weight"].tolist() == [2.0, 3.0]


def test_scores_may_be_absent_in_a_set_and_candidates_stay_with_their_rows(write, tmp_path) -> None:
    scored = {"prompt": "r", "candidates": ["x", "y", "z"], "candidate_scores": [1, 3, 2]}
    rows = read_rows(write([PAIR, PAIR], mix=[other(tmp_path, [scored, scored])]))[0]
    assert np.array_equal(rows.columns["score_chosen"], [np.nan, np.nan, 3, 3], equal_nan=True)
    assert rows.candidates is not None
    assert (rows.candidates.texts, rows.candidates.row.tolist()) == (["z", "z"], [2, 3])
    assert rows.candidates.counts == {"read": 6, "in_pairs": 4, "kept": 2, "dropped_duplicate": 0, "dropped_empty": 0}


def test_tools_stay_with_their_rows(write, tmp_path) -> None:
    chat = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
    rows = read_rows(write([chat], mix=[other(tmp_path, [chat | {"tools": [{"name": "t"}]}])]))[0]
    assert rows.template == [{}, {"tools": [{"name": "t"}]}]


@pytest.mark.parametrize(
    ("row", "more", "expected"),
    [
        (PAIR, PAIR | {"cluster": 1}, "pairs.jsonl has no cluster and other.jsonl has one"),
        (PAIR | {"label_smoothing": 0.1}, PAIR, "other.jsonl has no label_smoothing and pairs.jsonl has one"),
        (
            PAIR | {"score_chosen": [1, 2], "score_rejected": [1, 2]},
            PAIR | {"score_chosen": 1, "score_rejected": 2},
            "have score_chosen by different numbers of models",
        ),
        (
            PAIR,
            {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"},
            "In other.jsonl, row 1 mixes",
        ),
        (PAIR, PAIR | {"rejected": ""}, "In other.jsonl, row 1 has an empty completion"),
        (PAIR, {"prompt": "q"}, "In other.jsonl, row 1 has no chosen"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(row, more, expected, write, tmp_path) -> None:
    with pytest.raises(ValueError, match=expected):
        read_rows(write([row], mix=[other(tmp_path, [more])]))


def test_rows_of_all_sets_are_held_out_by_their_prompts(write, tmp_path) -> None:
    first, second = ([PAIR | {"prompt": f"{name} {i}"} for i in range(50)] for name in ("q", "r"))
    train, held_out = read_rows(write(first, eval_fraction=0.2, mix=[other(tmp_path, second)]))
    assert held_out is not None and len(train) + len(held_out) == 100
    assert {prompt[0] for prompt in held_out.prompt} == {"q", "r"}
    assert held_out.where(len(held_out) - 1).startswith("In other.jsonl, row ")
