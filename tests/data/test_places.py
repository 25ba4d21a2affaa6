"""Which files a path means, and how each kind of file is read."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import Rows, read_rows

ROWS = [{"prompt": f"question {i} ", "chosen": f"yes, {i}\nand more", "rejected": f"no {i}"} for i in range(4)]


def lines(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table(rows, delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


FILES = {
    "rows.jsonl.zst": zstd(lines(ROWS)),
    "list.json": json.dumps(ROWS, indent=2).encode(),
    "one line.json": json.dumps(ROWS).encode(),
    "lines.json": lines(ROWS),
    "list.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "list.json.zst": zstd(json.dumps(ROWS).encode()),
    "table.csv": table(ROWS),
    "table.csv.gz": gzip.compress(table(ROWS)),
    "table.tsv": table(ROWS, "\t"),
    "with a byte order mark.csv": b"\xef\xbb\xbf" + table(ROWS),
}


def read(path, **settings) -> Rows:
    return read_rows(DataConfig(path=path, eval_fraction=0.0, **settings))[0]


def texts(rows) -> list[tuple]:
    return list(zip(rows.prompt, rows.chosen, rows.rejected, strict=True))


EXPECTED = [tuple(row.values()) for row in ROWS]


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(name, tmp_path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    rows = read(str(tmp_path / name))
    assert texts(rows) == EXPECTED
    assert rows.numbers.tolist() == [1, 2, 3, 4]


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two rows a file, in the order of their names."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for name, rows in (("train-0", ROWS[:2]), ("train-1", ROWS[2:]), ("test-0", ROWS[:1])):
        (folder / f"{name}.jsonl").write_bytes(lines(rows))
    return folder


def test_patterns_lists_and_folders_of_files_give_the_rows_in_order(shards) -> None:
    files = [str(shards / "train-0.jsonl"), str(shards / "train-1.jsonl")]
    for path in (f"{shards}/train-*.jsonl", f"{shards.parent}/**/train-*.jsonl", files, str(shards)):
        assert texts(read(path)) == EXPECTED
    assert texts(read(files[::-1])) == EXPECTED[2:] + EXPECTED[:2]
    assert len(read(str(shards), split="test")) == 1
    assert len(read(f"{shards}/*")) == 5


def test_a_folder_of_parquet_and_an_evaluation_split_beside_it(shards) -> None:
    for file in shards.iterdir():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        pa.parquet.write_table(pa.Table.from_pylist(rows), file.with_suffix(".parquet"))
        file.unlink()
    train, held_out = read_rows(DataConfig(path=str(shards), eval_split="test"))
    assert texts(train) == EXPECTED
    assert held_out is not None and texts(held_out) == EXPECTED[:1]


def test_a_folder_of_several_configurations_wants_a_name(shards) -> None:
    for name in ("one", "two"):
        (shards / name).mkdir()
        (shards / name / "train.jsonl").write_bytes(lines(ROWS[: 1 + (name == "two")]))
    configs = [{"config_name": name, "data_files": f"{name}/*.jsonl"} for name in ("one", "two")]
    (shards / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    assert len(read(str(shards), name="two")) == 2
    with pytest.raises(ValueError, match=r"several configurations: set data\.name to one \(\['one', 'two'\]\)\.$"):
        read(str(shards))


def test_a_configuration_of_the_hub_is_asked_for_by_its_name(monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, name=None, split=None) -> datasets.Dataset:
        asked.append((path, name, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert texts(read("some/pairs", name="helpful")) == EXPECTED
    assert asked == [("some/pairs", "helpful", "train")]


def test_errors_name_the_file_and_the_row_in_it(shards) -> None:
    (shards / "train-1.jsonl").write_bytes(lines([ROWS[2]]) + b"\n" + lines([ROWS[3] | {"chosen": ""}]))
    with pytest.raises(ValueError, match=r"In train-1\.jsonl, row 3 has an empty completion"):
        read(f"{shards}/train-*.jsonl")
    (shards / "train-1.jsonl").write_bytes(lines([row | {"weight": -1} for row in ROWS]))
    (shards / "train-0.jsonl").write_bytes(lines([row | {"weight": 1} for row in ROWS]))
    with pytest.raises(ValueError, match=r"In train-1\.jsonl, row 1 has the negative weight"):
        read(f"{shards}/train-*.jsonl")


BAD = {
    "a list of no rows": ("x.json", b"[1, 2]", "no JSON object on line 1"),
    "a list with something else in it": ("x.json", b'[{"prompt": "q"}, 3]', "no JSON object as row 2 of its list"),
    "a broken list": ("x.json", b'[\n{"prompt": "q"},\n{"prompt" 3}]', r"malformed JSON on line 3 .*all in one list"),
    "one object over several lines": ("x.json", b'{\n"prompt": "q"\n}', r"malformed JSON on line 1 .*one on a line"),
    "an empty list": ("x.json", b"[]", "holds no rows"),
    "a cell too much": ("x.csv", b"prompt,chosen,rejected\nq,a,b,c\n", "more or fewer cells in row 1"),
    "a cell too few": ("x.csv", b"prompt,chosen,rejected\nq,a\n", "more or fewer cells in row 1"),
    "an open quote": ("x.csv", b'prompt,chosen,rejected\nq,a,"b\n', "cannot be read as CSV"),
    "no UTF-8": ("x.csv", b"prompt,chosen,rejected\nq,\xff,b\n", "cannot be read as CSV"),
    "no zstd": ("x.jsonl.zst", b"plain", "cannot be unpacked"),
    "half of a zstd": ("x.jsonl.zst", zstd(lines(ROWS))[:-20], "cannot be unpacked"),
    "a number that is none": ("x.csv", b"prompt,chosen,rejected,weight\nq,a,b,high\n", "row 1 has the weight 'high'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_file_is_one_sentence(case, tmp_path) -> None:
    name, content, expected = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=expected) as raised:
        read(str(tmp_path / name))
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_what_a_path_cannot_mean_is_one_sentence(shards, tmp_path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("words")
    for path, settings, expected in [
        (f"{shards}/none-*.jsonl", {}, "matches no file: check the pattern"),
        ([], {}, "data.path is an empty list"),
        ([str(shards / "train-0.jsonl"), "some/hub_id"], {}, "lists some/hub_id, which is no file.*data.mix"),
        ([str(shards / "absent.jsonl")], {}, "absent.jsonl is not there: check the path"),
        (f"{shards}/train-0.jsonl", {"name": "x"}, "is a file and has no configuration x: remove data.name"),
        (str(shards), {"split": "dev"}, "has the splits train, test, not dev"),
        (str(tmp_path / "notes"), {}, "holds no data set and no file of rows"),
    ]:
        with pytest.raises(ValueError, match=expected):
            read(path, **settings)


def test_numbers_and_lists_stand_in_csv_as_text(tmp_path) -> None:
    row = {
        "prompt": "12",
        "chosen": "7",
        "rejected": "8",
        "weight": "0.5",
        "score_chosen": "1e-1",
        "score_rejected": "",
    }
    (tmp_path / "x.csv").write_bytes(table([row]))
    rows = read(str(tmp_path / "x.csv"))
    assert texts(rows) == [("12", "7", "8")]
    assert (rows.columns["weight"].tolist(), rows.columns["score_chosen"].tolist()) == ([0.5], [0.1])


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("prompt,chosen,chosen,rejected", "two columns chosen: rename one"),
        ("prompt;chosen;rejected", "a head that semicolons separate"),
        ("prompt, chosen, rejected", "spaces around the name of its column chosen"),
    ],
)
def test_a_head_that_hides_columns_is_refused(head, said, tmp_path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"{head}\n{'x,' * head.count(',')}x\n")
    with pytest.raises(ValueError, match=said):
        read_rows(DataConfig(path=str(path), eval_fraction=0.0))
