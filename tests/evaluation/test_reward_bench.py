"""RewardBench 1 and 2, on rows of our own with their columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iwpo_fast.evaluation import reward_bench
from iwpo_fast.evaluation.reward_bench import read, right, sections, ties_score

ONE = {"prompt": "p", "chosen": "a", "chosen_model": "m", "rejected": "b", "rejected_model": "n"}
TWO = {"prompt": "p", "num_correct": 1, "num_incorrect": 3, "total_completions": 4, "models": ["m"]}


def of_one(subset: str, number: int) -> dict[str, Any]:
    return ONE | {"subset": subset, "id": number}


def of_two(name: str, subset: str, chosen: list[str], rejected: list[str]) -> dict[str, Any]:
    return TWO | {"id": name, "subset": subset, "chosen": chosen, "rejected": rejected}


def written(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_version_one_has_a_pair_in_each_row(tmp_path) -> None:
    bench = read(written(tmp_path, [of_one("hep-go", 0), of_one("math-prm", 1)]))
    assert bench.version == 1 and bench.answers == ["a", "b", "a", "b"] and bench.row.tolist() == [0, 0, 1, 1]
    assert right(bench, np.array([2.0, 1.0, 1.0, 2.0])).tolist() == [1, 0]
    assert {name: rows.tolist() for name, rows in reward_bench.by_subset(bench).items()} == {
        "hep-go": [0],
        "math-prm": [1],
    }


def test_the_best_of_four_has_to_be_the_chosen_one_and_ties_share(tmp_path) -> None:
    bench = read(written(tmp_path, [of_two(str(i), "Math", ["a"], ["b", "c", "d"]) for i in range(4)]))
    scores = np.array([3.0, 1, 2, 0, 3, 1, 4, 0, 1, 1, 0, 0, 1, np.nan, 0, 0])
    np.testing.assert_array_equal(right(bench, scores), [1, 0, 0.5, np.nan])


def test_parquet_files_hold_the_same_benchmark(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [of_two("1", "Math", ["a"], ["b", "c"]), of_two("tied:0", "Ties", ["a", "b"], ["c"])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    bench = read(str(tmp_path / "test.parquet"))
    assert bench.answers == ["a", "b", "c", "a", "b", "c"] and bench.correct.tolist() == [1, 2]


TIED = [of_two(f"ref:{i}", "Ties", ["a"], ["b", "c"]) for i in range(2)]
TIED += [of_two(f"tied:{i}", "Ties", ["a", "d"], ["b", "c"]) for i in range(2)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # Every correct answer is far above every wrong one, and correct ones differ little.
        ([9, 0, 1, 9, 0, 1, 9, 8, 0, 1, 9, 8, 0, 1], 1.0 + 0.01 * np.tanh(7 / 1 - 1)),
        # Right, but the correct ones differ more than they are above the wrong ones.
        ([9, 0, 1, 9, 0, 1, 9, 2, 0, 1, 9, 2, 0, 1], 0.6 + 0.01 * np.tanh(1 / 7 - 1)),
        # The prompts with one correct answer are close calls: the hard comparison fails.
        ([9, 0, 8.5, 9, 0, 8.5, 9, 8, 0, 1, 9, 8, 0, 1], 0.8 + 0.01 * np.tanh(0.5 / 1 - 1)),
        # Always wrong.
        ([0, 9, 9, 0, 9, 9, 0, 1, 9, 9, 0, 1, 9, 9], 0.01 * np.tanh(-9 / 1 - 1)),
        # One of two tied prompts is wrong.
        ([9, 0, 1, 9, 0, 1, 9, 8, 0, 1, 0, 0, 5, 5], 0.15 + 0.3 + 0.1 + 0.1 + 0.01 * (np.tanh(6) - 1) / 2),
    ],
)
def test_the_score_of_ties_is_that_of_the_benchmark(tmp_path, scores, expected) -> None:
    assert ties_score(read(written(tmp_path, TIED)), np.array(scores, dtype=np.float64)) == pytest.approx(expected)


def test_ties_without_their_other_half_have_no_score(tmp_path) -> None:
    assert np.isnan(ties_score(read(written(tmp_path, TIED[:2])), np.zeros(6)))


def test_sections_weigh_the_subset_of_mathematics_as_much_as_code() -> None:
    code = {f"hep-{name}": 164 for name in ("cpp", "go", "java", "js", "python", "rust")}
    accuracy = dict.fromkeys(code, 1.0) | {"math-prm": 0.0, "donotanswer": 0.25}
    found = sections(accuracy, code | {"math-prm": 447, "donotanswer": 136})
    assert found == {"Safety": 0.25, "Reasoning": pytest.approx(0.5)}


REFUSED = [
    ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "row 1 has no subset: give a file of RewardBench"),
    ([of_one("hep-go", 0) | {"rejected": ["b"]}], "row 1 is no row of RewardBench"),
    ([of_one("hep-go", 0) | {"chosen": 3}], "row 1 is no row of RewardBench"),
    ([of_two("1", "Math", ["a"], [])], "row 1 has no answer on one side"),
    ([of_one("hep-go", 0), of_two("1", "Math", ["a"], ["b"])], "row 2 is of another version of RewardBench"),
    ([of_two("7", "Ties", ["a"], ["b"])], "has the id 7 in the subset Ties: give ids such as ref:3"),
]


@pytest.mark.parametrize(("rows", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_rows_of_another_kind_are_refused_by_name(tmp_path, rows, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        read(written(tmp_path, rows))


def test_a_file_that_is_not_there_is_called_by_its_setting(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^rewardbench \S+absent.jsonl is not there"):
        read(str(tmp_path / "absent.jsonl"))
