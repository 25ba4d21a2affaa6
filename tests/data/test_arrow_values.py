"""Rows from Arrow are what they were before Arrow gave its columns one type."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.arrow_values import as_stored, readers_of

datasets = pytest.importorskip("datasets")


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}


def call(name: str, **arguments: Any) -> list[dict[str, Any]]:
    called = {"function": {"name": name, "arguments": arguments}}
    return [{"role": "assistant", "content": None, "tool_calls": [called]}]


ROWS = [
    {
        "prompt": [{"role": "user", "content": "Weather?"}],
        "chosen": call("weather", city="Ulm", unit=None),
        "rejected": [{"role": "assistant", "content": "I cannot."}],
        "tools": [tool("weather", city={"type": "string", "default": None})],
    },
    {
        "prompt": [{"role": "system", "content": "brief", "name": "boss"}, {"role": "user", "content": "Sum?"}],
        "chosen": call("add", x=1, y=2),
        "rejected": [{"role": "assistant", "content": "no"}],
        "tools": [tool("add", x={"type": "number"})],
    },
]


@pytest.mark.parametrize("form", ["parquet", "arrow", "folder"])
@pytest.mark.parametrize("whole", [False, True], ids=["inner", "whole messages"])
def test_the_json_type_is_parsed_and_its_own_nulls_stay(form, whole, tmp_path) -> None:
    if whole:
        json_list = datasets.List(datasets.Json())
        data = datasets.Dataset.from_list(ROWS, features=datasets.Features(dict.fromkeys(ROWS[0], json_list)))
    else:
        data = datasets.Dataset.from_list(ROWS, on_mixed_types="use_json")
    path = tmp_path / f"pairs.{form}"
    if form == "parquet":
        data.to_parquet(str(path))
    elif form == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, data.data.table.schema) as writer:
            writer.write_table(data.data.table)
    else:
        data.save_to_disk(str(path))
    rows = read_rows(DataConfig(str(path), eval_fraction=0.0))[0]
    assert [message for chosen in rows.chosen for message in chosen] == [row["chosen"][0] for row in ROWS]
    assert rows.prompt == [row["prompt"] for row in ROWS]
    assert [given["tools"] for given in rows.template] == [row["tools"] for row in ROWS]


def test_keys_that_arrow_adds_to_structures_are_left_out_and_a_message_keeps_its_content(tmp_path) -> None:
    messages = [[{"role": "user", "content": "a"}], [{"role": "user", "content": None, "name": "n", "more": {"b": 1}}]]
    pq.write_table(pa.table({"prompt": messages, "plain": ["x", None]}), tmp_path / "a.parquet")
    schema = pq.read_schema(tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert rows[0]["prompt"][0].keys() == {"role", "content", "name", "more"}
    read = as_stored(rows, readers_of(schema, parse=True))
    assert [row["prompt"] for row in read] == messages
    assert [row["plain"] for row in read] == ["x", None]


def test_a_call_gets_no_argument_of_another_whatever_it_is_called() -> None:
    arguments = [{"path": "a.txt", "content": "x"}, {"query": "y"}]
    calls = [[{"function": {"name": "f", "arguments": given}}] for given in arguments]
    rows = [{"chosen": [{"role": "assistant", "content": None, "tool_calls": made}]} for made in calls]
    table = pa.Table.from_pylist(rows)
    read = as_stored(table.to_pylist(), readers_of(table.schema, parse=True))
    assert table.to_pylist() != rows and read == rows


def test_columns_of_plain_values_need_no_reading() -> None:
    schema = pa.schema({"a": pa.string(), "b": pa.list_(pa.float64()), "c": pa.list_(pa.struct({"d": pa.int8()}))})
    assert readers_of(schema, parse=True).keys() == {"c"}
    rows = [{"a": "x", "b": [1.0]}]
    assert as_stored(rows, {})[0] is rows[0]


@pytest.mark.parametrize("written", [json.dumps, repr], ids=["JSON", "Python"])
@pytest.mark.parametrize("parts", [("prompt", "chosen", "rejected"), ("chosen", "rejected"), ("prompt",)])
def test_conversations_stored_as_text_are_read_as_messages(written, parts, tmp_path) -> None:
    row = {"prompt": ROWS[1]["prompt"], "chosen": ROWS[0]["rejected"], "rejected": ROWS[1]["rejected"]}
    stored = row | {name: written(row[name]) for name in parts}
    (tmp_path / "a.jsonl").write_text(json.dumps(stored), encoding="utf-8")
    rows = read_rows(DataConfig(str(tmp_path / "a.jsonl"), eval_fraction=0.0))[0]
    assert {"prompt": rows.prompt[0], "chosen": rows.chosen[0], "rejected": rows.rejected[0]} == row


@pytest.mark.parametrize("text", ["[1] the role", '["role"]', '[{"role": "x"', "[role", '{"role": "user"}'])
def test_text_that_only_looks_like_messages_stays_text(text, tmp_path) -> None:
    row = {"prompt": text, "chosen": "a", "rejected": "b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert read_rows(DataConfig(str(tmp_path / "a.jsonl"), eval_fraction=0.0))[0].prompt == [text]


def test_maps_are_read_as_dictionaries(tmp_path) -> None:
    calls = pa.list_(pa.struct({"name": pa.string(), "arguments": pa.map_(pa.string(), pa.string())}))
    message = pa.struct({"role": pa.string(), "content": pa.string(), "tool_calls": calls})
    call = [{"name": "look", "arguments": {"at": "sky", "how": "up"}}]
    row = {
        "prompt": [{"role": "user", "content": "q", "tool_calls": None}],
        "chosen": [{"role": "assistant", "content": None, "tool_calls": call}],
        "rejected": [{"role": "assistant", "content": "b", "tool_calls": None}],
        "chat_template_kwargs": {"effort": "high"},
        "meta": {"origin": "web"},
    }
    kinds = dict.fromkeys(("prompt", "chosen", "rejected"), pa.list_(message))
    texts = pa.map_(pa.string(), pa.string())
    table = pa.Table.from_pylist([row], pa.schema(kinds | {"chat_template_kwargs": texts, "meta": texts}))
    pq.write_table(table, tmp_path / "rows.parquet")
    with pa.ipc.new_file(str(tmp_path / "rows.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("rows.parquet", "rows.arrow"):
        rows = read_rows(DataConfig(path=str(tmp_path / name), eval_fraction=0.0))[0]
        assert rows.chosen[0][0]["tool_calls"] == call
        assert rows.template is not None and rows.template[0] == {"effort": "high"}
        assert rows.unread == {"meta": 1}


def test_a_map_with_a_key_twice_is_refused(tmp_path) -> None:
    keys, items = pa.array(["a", "a"]), pa.array(["x", "y"])
    maps = pa.MapArray.from_arrays(pa.array([0, 2], pa.int32()), keys, items)
    texts = {name: [name] for name in ("prompt", "chosen", "rejected")}
    pq.write_table(pa.table(texts | {"meta": maps}), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"cannot be read as Parquet .*a map has a key twice"):
        read_rows(DataConfig(path=str(tmp_path / "rows.parquet"), eval_fraction=0.0))


def classes(folder: Path, form: str, columns: dict[str, list[Any]], **names: list[str]) -> str:
    """A data set with columns of the kind ClassLabel."""
    data = datasets.Dataset.from_dict(columns)
    for name, kinds in names.items():
        kind = datasets.ClassLabel(names=kinds)
        data = data.cast_column(name, datasets.List(kind) if isinstance(columns[name][0], list) else kind)
    path = folder / f"rows.{form}"
    if form == "parquet":
        data.to_parquet(str(path))
    else:
        data.save_to_disk(str(path))
    return str(path)


@pytest.mark.parametrize("form", ["parquet", "folder"])
@pytest.mark.parametrize(
    "names", [["False", "True"], ["undesirable", "desirable"], ["desirable", "undesirable"], ["chosen", "rejected"]]
)
def test_a_class_goes_by_its_name_whatever_its_place(form, names, tmp_path) -> None:
    good = [name in ("True", "desirable", "chosen") for name in names]
    columns = {"prompt": ["a", "b"], "completion": ["x", "y"], "label": [0, 1]}
    rows = read_rows(DataConfig(classes(tmp_path, form, columns, label=names), eval_fraction=0.0))[0]
    assert rows.present is not None and rows.present.tolist() == [[is_good, not is_good] for is_good in good]


@pytest.mark.parametrize("form", ["parquet", "folder"])
def test_a_class_that_says_neither_is_refused_by_its_name(form, tmp_path) -> None:
    columns = {"prompt": ["a"], "completion": ["x"], "label": [1]}
    with pytest.raises(ValueError, match=r"^In .*row 1 has the label 'pos' beside one completion: make it true"):
        read_rows(DataConfig(classes(tmp_path, form, columns, label=["neg", "pos"]), eval_fraction=0.0))


def test_an_absent_class_is_no_label(tmp_path) -> None:
    columns = {"prompt": ["a"], "completion": ["x"], "label": [-1]}
    path = classes(tmp_path, "parquet", columns, label=["False", "True"])
    with pytest.raises(ValueError, match="one completion and no label"):
        read_rows(DataConfig(path, eval_fraction=0.0))


def test_verdicts_that_are_classes_go_by_their_names(tmp_path) -> None:
    columns = {"prompt": ["q", "r"], "a": ["x", "y"], "b": ["z", "w"], "better": [1, 0]}
    path = classes(tmp_path, "parquet", columns, better=["b wins", "a wins"])
    config = DataConfig(path, eval_fraction=0.0, columns={"first": "a", "second": "b", "preferred": "better"})
    rows = read_rows(replace(config, preferred={"first": "a wins", "second": "b wins"}))[0]
    assert rows.chosen == ["x", "w"]
    with pytest.raises(ValueError, match=r"row 1 has 'a wins' in its column preferred"):
        read_rows(replace(config, preferred={"first": 0, "second": 1}))


def test_scores_that_are_classes_are_no_places(tmp_path) -> None:
    columns = {"prompt": ["q"], "candidates": [["x", "y"]], "scores": [[0, 1]]}
    path = classes(tmp_path, "parquet", columns, scores=["5", "1"])
    with pytest.raises(ValueError, match="row 1"):
        read_rows(DataConfig(path, eval_fraction=0.0))


def test_what_a_foreign_file_says_of_its_columns_is_not_believed(tmp_path) -> None:
    for about in (
        b"{",
        b"[]",
        b'{"info": 1}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": 1}}}}',
    ):
        table = pa.table({"prompt": ["a"], "completion": ["x"], "label": [1]})
        pq.write_table(table.replace_schema_metadata({"huggingface": about}), tmp_path / "rows.parquet")
        rows = read_rows(DataConfig(str(tmp_path / "rows.parquet"), eval_fraction=0.0))[0]
        assert rows.present is not None and rows.present.tolist() == [[True, False]]
