"""The column `annotator`: any text or integer, kept beside the rows wherever they go."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from iwpo_fast.config import DataConfig, MixedConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.annotators import NOBODY, Annotators, AnnotatorStore


def write(path: Path, annotators: list[object], name: str = "annotator") -> Path:
    rows = [
        {"prompt": f"say {i}: ", "chosen": "yes", "rejected": "no"} | ({} if who is ... else {name: who})
        for i, who in enumerate(annotators)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **settings: object) -> Annotators | None:
    settings = {"eval_fraction": 0.0, "cache_dir": str(path.parent / "cache")} | settings
    return read_rows(DataConfig(path=str(path), **settings))[0].annotators


def named(found: Annotators | None) -> list[str | None]:
    assert found is not None
    return [None if place == NOBODY else found.names[place] for place in found.of_row]


def test_texts_and_integers_are_names(tmp_path) -> None:
    path = write(tmp_path / "pairs.jsonl", ["ann", 3, "3", "ann", " bob "])
    assert named(read(path)) == ["ann", "3", "3", "ann", "bob"]


def test_what_is_no_name_is_nobody_and_refuses_nothing(tmp_path) -> None:
    path = write(tmp_path / "pairs.jsonl", [..., None, True, 1.5, {"id": 3}, "", "ann", ...])
    assert named(read(path)) == [None] * 6 + ["ann", None]


def test_rows_without_the_column_have_no_annotators(tmp_path) -> None:
    assert read(write(tmp_path / "pairs.jsonl", [...] * 3)) is None
    assert AnnotatorStore().finish() is None


def test_the_column_may_have_another_name(tmp_path) -> None:
    path = write(tmp_path / "pairs.jsonl", ["ann", "bob"], name="worker_id")
    assert named(read(path, columns={"annotator": "worker_id"})) == ["ann", "bob"]


def test_a_table_of_text_and_one_of_numbers_name_the_same(tmp_path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("prompt,chosen,rejected,annotator\nsay: ,yes,no,7\nsay it: ,yes,no,8\n")
    assert named(read(table)) == named(read(write(tmp_path / "pairs.jsonl", [7, 8])))


def test_one_name_is_one_annotator_in_all_data_sets(tmp_path) -> None:
    first, second = write(tmp_path / "a.jsonl", ["ann", "bob"]), write(tmp_path / "b.jsonl", ["bob", "cid"])
    without = write(tmp_path / "c.jsonl", [...])
    found = read(first, mix=[MixedConfig(path=str(second)), MixedConfig(path=str(without))])
    assert named(found) == ["ann", "bob", "bob", "cid", None] and found.names == ("ann", "bob", "cid")


def test_held_out_rows_keep_theirs(tmp_path) -> None:
    path = write(tmp_path / "pairs.jsonl", [f"a{i}" for i in range(40)])
    rows, held_out = read_rows(DataConfig(path=str(path), eval_fraction=0.3, cache_dir=str(tmp_path / "cache")))
    for part in (rows, held_out):
        assert named(part.annotators) == [f"a{number - 1}" for number in part.numbers]


def test_names_have_other_numbers_elsewhere() -> None:
    found = Annotators(("ann", "bob"), np.array([1, NOBODY, 0]))
    assert found.numbered_by({"bob": 0, "cid": 1, "ann": 2}).tolist() == [0, NOBODY, 2]


def test_all_pairs_of_a_row_have_its_annotator(tmp_path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "p: ", "candidates": ["a", "b", "c"], "candidate_scores": [3, 2, 1], "annotator": "ann"}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"prompt": "q: ", "annotator": "bob"}) + "\n")
    assert named(read(path, pairs_from_candidates="all")) == ["ann"] * 3 + ["bob"] * 3


def test_it_is_not_said_to_be_left_out(tmp_path) -> None:
    path = write(tmp_path / "pairs.jsonl", ["a long name of somebody", "bob"])
    rows, _ = read_rows(DataConfig(path=str(path), eval_fraction=0.0, cache_dir=str(tmp_path / "cache")))
    assert rows.unread == {} and rows.notes == {}
