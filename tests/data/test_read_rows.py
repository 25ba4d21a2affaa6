from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows

ROWS = [
    {
        "prompt": f"question {i}",
        "chosen": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"yes {i}"}],
        "rejected": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"no {i}"}],
        "score_chosen": 8.0 + i,
        "score_rejected": 3.0,
        "messages": ["not for us"],
    }
    for i in range(5)
]
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def as_json_lines(folder: Path) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def as_json_lines_gz(folder: Path) -> Path:
    path = folder / "data.jsonl.gz"
    path.write_bytes(gzip.compress(as_json_lines(folder).read_bytes()))
    return path


def as_parquet(folder: Path) -> Path:
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), folder / "data.parquet")
    return folder / "data.parquet"


def as_arrow_file(folder: Path) -> Path:
    pa.feather.write_feather(pa.Table.from_pylist(ROWS), folder / "data.arrow")
    return folder / "data.arrow"


def as_arrow_stream(folder: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return folder / "data.arrow"


def as_saved_dataset(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return folder / "saved"


def as_saved_splits(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:2])}
    datasets.DatasetDict(splits).save_to_disk(folder / "splits")
    return folder / "splits"


KINDS = [
    as_json_lines,
    as_json_lines_gz,
    as_parquet,
    as_arrow_file,
    as_arrow_stream,
    as_saved_dataset,
    as_saved_splits,
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_rows(kind, tmp_path) -> None:
    rows = read_rows(DataConfig(path=str(kind(tmp_path)), eval_fraction=0.0))[0]
    assert rows.prompt == [[{"role": "user", "content": f"question {i}"}] for i in range(5)]
    assert rows.chosen == [[{"role": "assistant", "content": f"yes {i}"}] for i in range(5)]
    assert rows.rejected == [[{"role": "assistant", "content": f"no {i}"}] for i in range(5)]
    assert rows.numbers.tolist() == [1, 2, 3, 4, 5]
    assert set(rows.columns) == {"score_chosen", "score_rejected"}
    assert rows.columns["score_chosen"].tolist() == [8.0, 9.0, 10.0, 11.0, 12.0]
    assert list(rows.texts())[:4] == ["question 0", "yes 0", "no 0", "question 1"]


def test_splits_of_a_saved_dataset_are_chosen_by_name(tmp_path) -> None:
    path = str(as_saved_splits(tmp_path))
    train, evaluation = read_rows(DataConfig(path=path, eval_split="test"))
    assert (len(train), len(evaluation)) == (5, 2)
    with pytest.raises(ValueError, match="has the splits train, test, not validation"):
        read_rows(DataConfig(path=path, split="validation"))


def test_a_split_must_be_chosen_where_there_are_several(tmp_path, write) -> None:
    with pytest.raises(ValueError, match=r"data\.eval_path .* has the splits train, test, and none is chosen"):
        read_rows(write([PAIR], eval_path=str(as_saved_splits(tmp_path))))


def test_a_hub_dataset_is_read_like_a_saved_one(monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, split=None) -> datasets.Dataset:
        asked.append((path, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    train, evaluation = read_rows(DataConfig(path="some/pairs", split="train_prefs", eval_split="test_prefs"))
    assert asked == [("some/pairs", "train_prefs"), ("some/pairs", "test_prefs")]
    assert len(train) == len(evaluation) == 5
    assert train.source == "some/pairs"


def test_a_split_of_a_file_is_refused(write) -> None:
    with pytest.raises(ValueError, match="is a file and has no split test"):
        read_rows(write([PAIR], split="test"))


def test_evaluation_data_may_lie_elsewhere_and_lack_the_weights(write, tmp_path) -> None:
    other = tmp_path / "eval.jsonl"
    other.write_text(json.dumps({"prompt": "q", "good": "a", "rejected": "b"}))
    rows = [{"prompt": "q", "good": "a", "rejected": "b", "w": 2.0}]
    config = write(rows, eval_path=str(other), columns={"chosen": "good", "weight": "w"}, eval_fraction=0.5)
    train, evaluation = read_rows(config)
    assert train.columns["weight"].tolist() == [2.0]
    assert evaluation.chosen == ["a"]


MESSAGE = [{"role": "user", "content": "What?"}]
YES, NO = ([{"role": "assistant", "content": text}] for text in ("yes", "no"))


@pytest.mark.parametrize(("prompt", "yes", "no"), [("What is it?", " yes", " no"), (MESSAGE, YES, NO)])
def test_a_prompt_that_both_completions_repeat_is_cut_off_them_whatever_other_rows_do(prompt, yes, no, write) -> None:
    repeated = {"prompt": prompt, "chosen": prompt + yes, "rejected": prompt + no}
    plain = {"prompt": prompt, "chosen": yes, "rejected": no}
    one_side = {"prompt": prompt, "chosen": yes, "rejected": prompt + no}
    found = read_rows(write([repeated, plain, one_side]))[0]
    assert found.prompt == [prompt] * 3
    alone = no if isinstance(prompt, list) else prompt + no  # a text may begin as its prompt by itself
    assert (found.chosen, found.rejected) == ([yes] * 3, [no, no, alone])


@pytest.mark.parametrize("other", [PAIR, PAIR | {"prompt": ""}])
def test_answers_that_begin_with_a_prompt_of_one_or_two_words_stay_whole(other, write) -> None:
    greeting = {"prompt": "Hi!", "chosen": "Hi! What can I do?", "rejected": "Hi! No."}
    found = read_rows(write([greeting, other]))[0]
    assert (found.chosen, found.rejected) == ([greeting["chosen"], "a"], [greeting["rejected"], "b"])


def test_an_answer_that_is_only_the_repeated_prompt_is_empty(write) -> None:
    with pytest.raises(ValueError, match="row 1 has an empty completion in chosen"):
        read_rows(write([{"prompt": "What is it?", "chosen": "What is it?", "rejected": "What is it? no"}]))


def test_columns_are_found_under_the_names_that_the_mapping_gives(write) -> None:
    rows = [{"instruction": "q", "chosen": "b", "rejected": "a", "w": 3}]
    names = {"prompt": "instruction", "chosen": "rejected", "rejected": "chosen", "weight": "w"}
    found = read_rows(write(rows, columns=names))[0]
    assert (found.prompt, found.chosen, found.rejected) == (["q"], ["a"], ["b"])
    assert found.columns["weight"].tolist() == [3.0]


def test_a_mapping_to_an_absent_column_lists_the_columns(write) -> None:
    with pytest.raises(ValueError, match=r"'preferred' as chosen, .* choose among prompt, chosen, rejected\.$"):
        read_rows(write([PAIR], columns={"chosen": "preferred"}))


def test_a_mapping_of_an_unknown_name_lists_the_names(write) -> None:
    with pytest.raises(ValueError, match="'winner', which means nothing here: use prompt, chosen"):
        read_rows(write([PAIR], columns={"winner": "chosen"}))


def test_limit_takes_the_first_rows_and_reads_no_further(write) -> None:
    text = json.dumps(PAIR) + "\n" + json.dumps(PAIR) + "\nnot JSON\n"
    assert len(read_rows(write(text, limit=2))[0]) == 2


def test_rows_of_json_lines_are_numbered_by_line(write) -> None:
    text = json.dumps(PAIR) + "\n\n  \n" + json.dumps(PAIR | {"chosen": ""}) + "\n"
    with pytest.raises(ValueError, match=r"In pairs\.jsonl, row 4 has an empty completion in chosen"):
        read_rows(write(text))


def test_all_numeric_columns_come_along(write) -> None:
    numbers = {
        "weight": 0.5,
        "label_smoothing": 0.1,
        "cluster": 3,
        "score_chosen": 1.0,
        "score_rejected": -1.0,
        "ref_chosen_logps": -20.5,
        "ref_rejected_logps": -30.5,
    }
    found = read_rows(write([PAIR | numbers]))[0]
    assert {name: values.tolist() for name, values in found.columns.items()} == {k: [v] for k, v in numbers.items()}
    assert all(values.dtype == np.float64 for values in found.columns.values())


def test_a_missing_score_is_nan(write) -> None:
    scored = PAIR | {"score_chosen": 1.0, "score_rejected": None}
    assert np.isnan(read_rows(write([scored]))[0].columns["score_rejected"][0])


def test_a_missing_score_in_a_list_is_nan(write) -> None:
    scored = PAIR | {"score_chosen": [4, None, 5], "score_rejected": [None, None, 2]}
    columns = read_rows(write([scored]))[0].columns
    np.testing.assert_array_equal(columns["score_chosen"], [[4, np.nan, 5]])
    np.testing.assert_array_equal(columns["score_rejected"], [[np.nan, np.nan, 2]])


@pytest.mark.parametrize("scores", [[1, 2], 1, [1, 2, 3, 4]])
def test_lists_of_scores_are_of_one_length_and_what_is_missing_is_null(write, scores) -> None:
    rows = [PAIR | {"score_chosen": [1, 2, 3], "score_rejected": [1, 2, 3]}]
    rows.append(PAIR | {"prompt": "r", "score_chosen": scores, "score_rejected": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"row 2 has the score_chosen .* lists of 3: give every row .* or null"):
        read_rows(write(rows))


BAD = {
    "malformed": ('{"prompt": "q", "chosen": "a", "rejected": "b"}\n{"prompt": \n', r"malformed JSON on line 2 \("),
    "not UTF-8": ('{"prompt": "\udc80"}\n', "malformed JSON on line 1"),
    "no object": ('["q"]\n', "no JSON object on line 1"),
    "nothing": ("\n", "holds no rows"),
    "no chosen": ([PAIR, {"prompt": "q", "rejected": "b"}], "row 2 has no chosen: add it"),
    "empty completion": ([PAIR, PAIR | {"rejected": ""}], "row 2 has an empty completion in rejected"),
    "NaN weight": ([PAIR | {"weight": 1.0}, PAIR | {"weight": float("nan")}], "row 2 has the weight nan"),
    "infinite weight": ([PAIR | {"weight": float("inf")}], "row 1 has the weight inf"),
    "negative weight": ([PAIR | {"weight": 0.0}, PAIR | {"weight": -0.1}], "row 2 has the negative weight"),
    "missing weight": ([PAIR | {"weight": 1.0}, PAIR], "row 2 has no weight"),
    "null weight": ([PAIR | {"weight": 1.0}, PAIR | {"weight": None}], "row 2 has no weight"),
    "weight as text": ([PAIR | {"weight": "1"}], "row 1 has the weight '1': make it a number"),
    "weight as truth value": ([PAIR | {"weight": True}], "row 1 has the weight True: make it a number"),
    "label smoothing of one": ([PAIR | {"label_smoothing": 1.0}], "row 1 has the label_smoothing 1.0"),
    "negative label smoothing": ([PAIR | {"label_smoothing": -0.1}], "row 1 has the label_smoothing"),
    "weight too large for a float": (
        [PAIR | {"weight": 10**400}],
        r"row 1 has the weight 10+\.\.\.0+: make it",
    ),
    "weight too large": (
        [PAIR | {"weight": 1.0}, PAIR | {"weight": 1e39}],
        r"row 2 has the weight 1e\+39: make it",
    ),
    "reference too large": (
        [PAIR | {"ref_chosen_logps": -1e39, "ref_rejected_logps": -1.0}],
        r"row 1 has the ref_chosen_logps -1e\+39",
    ),
    "JSON too deep": (
        json.dumps(PAIR) + "\n" + "[" * 100_000 + "\n",
        r"has JSON nested too deeply on line 2",
    ),
    "template keywords as a list": (
        [PAIR, PAIR | {"chat_template_kwargs": [1]}],
        "row 2 has chat_template_kwargs of",
    ),
    "template keywords as text": (
        [PAIR | {"chat_template_kwargs": "nope"}],
        "row 1 has chat_template_kwargs of",
    ),
    "tools as text": (
        [PAIR, PAIR | {"tools": "calculator"}],
        "row 2 has tools of another kind: make it a list",
    ),
    "half of the reference": ([PAIR | {"ref_chosen_logps": -1.0}], "lacks the column ref_rejected_logps"),
    "mixed rows": ([PAIR, {"chosen": ROWS[0]["chosen"], "rejected": ROWS[0]["rejected"]}], "row 2 mixes"),
}


@pytest.mark.parametrize("case", BAD)
def test_each_mistake_in_the_data_is_one_sentence_that_names_the_place(case, tmp_path) -> None:
    content, expected = BAD[case]
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=expected) as raised:
        read_rows(DataConfig(path=str(path)))
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


def test_sources_that_cannot_be_read_are_named(tmp_path) -> None:
    for name, content, expected in [
        ("pairs.jsonl.gz", gzip.compress(b'{"prompt": "q"}\n' * 1000)[:40], "cannot be unpacked"),
        ("pairs.jsonl.gz", b"plain", "cannot be unpacked"),
        ("pairs.parquet", b"PAR1 but no more", "cannot be read as Parquet"),
        ("pairs.arrow", b"not arrow at all", "cannot be read as Arrow"),
        ("pairs.xlsx", b"sheet", r"kind of .*pairs\.xlsx is unknown: give"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=expected):
            read_rows(DataConfig(path=str(path)))


@pytest.mark.parametrize(
    ("damaged", "damage"),
    [
        *((name, damage) for name in ("*.arrow", "state.json") for damage in (b"", b"neither", b"{}", b"[]")),
        *(("dataset_info.json", damage) for damage in (b"", b"neither", b"[]")),
    ],
)
def test_a_damaged_saved_dataset_is_one_sentence(damaged, damage, tmp_path) -> None:
    path = as_saved_dataset(tmp_path)
    [file] = path.glob(damaged)
    file.write_bytes(damage)
    with pytest.raises(ValueError, match=r"saved cannot be read as a saved data set \(") as raised:
        read_rows(DataConfig(path=str(path)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [as_parquet, as_arrow_file, as_arrow_stream, as_saved_dataset])
def test_a_source_cut_short_is_one_sentence(kind, tmp_path) -> None:
    path = kind(tmp_path)
    file = next(path.glob("*.arrow")) if path.is_dir() else path
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="cannot be read as") as raised:
        read_rows(DataConfig(path=str(path)))
    assert "\n" not in str(raised.value)


def test_what_is_not_there_is_named(tmp_path) -> None:
    for path in (str(tmp_path / "absent.jsonl"), "absent.parquet", "./folder/absent", "~/absent"):
        with pytest.raises(ValueError, match=f"data.path {path} is not there: check the path"):
            read_rows(DataConfig(path=path))


def test_a_hub_id_without_a_network_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"data\.path nobody/nothing is not there, and the hub cannot deliver it"):
        read_rows(DataConfig(path="nobody/nothing"))


def test_a_folder_of_something_else_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="is a folder that holds no data set and no file of rows"):
        read_rows(DataConfig(path=str(tmp_path)))


DIALOGUES = [
    {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: x\n\nAssistant: b"},
    {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: y\n\nAssistant: b"},
    {"chosen": "\n\nHuman: z\n\nAssistant: a", "rejected": "\n\nHuman: y\n\nAssistant: b"},
]


def test_rows_without_one_prompt_are_reported_with_the_first_and_their_number(write) -> None:
    with pytest.raises(ValueError, match=r"row 2 \(the first of 2\) has dialogues that differ .*on_prefix_mismatch"):
        read_rows(write(DIALOGUES))


def test_rows_without_one_prompt_are_dropped_and_counted_on_request(write) -> None:
    rows = read_rows(write(DIALOGUES, on_prefix_mismatch="drop"))[0]
    assert (len(rows), rows.mismatches, rows.numbers.tolist()) == (1, 2, [1])


def test_a_source_of_mismatches_only_is_an_error_even_then(write) -> None:
    with pytest.raises(ValueError, match="row 1 has dialogues that differ"):
        read_rows(write(DIALOGUES[1:2], on_prefix_mismatch="drop"))


@pytest.mark.parametrize("conversations", ["training", "evaluation"])
def test_evaluation_rows_of_another_kind_than_the_training_rows_are_refused(write, tmp_path, conversations) -> None:
    text = {"prompt": "p\n", "chosen": "a", "rejected": "b"}
    talk = {name: [{"role": "assistant", "content": value}] for name, value in text.items()}
    training, evaluation = (talk, text) if conversations == "training" else (text, talk)
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(f"\n{json.dumps(evaluation)}\n")
    kinds = {id(talk): "a conversation", id(text): "plain text"}
    said = f"pairs.jsonl, row 1, is {kinds[id(training)]} and held_out.jsonl, row 2, is {kinds[id(evaluation)]}: make"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        read_rows(write([training], eval_path=str(held_out)))


def test_an_empty_list_of_scores_is_named_by_its_row(write) -> None:
    row = {"prompt": "p\n", "chosen": "a", "rejected": "b", "score_chosen": [], "score_rejected": []}
    with pytest.raises(ValueError, match=r"^In pairs\.jsonl, row 1 has an empty list of scores"):
        read_rows(write([row]))


def test_tools_as_text_are_json_or_what_pandas_writes_and_may_be_empty(write) -> None:
    talk = {side: [{"role": "assistant", "content": side}] for side in ("prompt", "chosen", "rejected")}
    tools = [{"type": "function", "function": {"name": "look", "strict": True}}]
    rows = read_rows(write([talk | {"tools": given} for given in (tools, json.dumps(tools), str(tools), "", "[]")]))[0]
    assert list(rows.template) == [{"tools": tools}] * 3 + [{}] * 2
    with pytest.raises(ValueError, match="row 1 has tools and others in chat_template_kwargs: keep one"):
        read_rows(write([talk | {"tools": tools, "chat_template_kwargs": {"tools": tools[:1]}}]))


@pytest.mark.parametrize("name", ["tokenize", "messages", "add_generation_prompt"])
def test_what_rendering_decides_is_no_argument_of_a_row(name, write) -> None:
    talk = {side: [{"role": "assistant", "content": side}] for side in ("prompt", "chosen", "rejected")}
    with pytest.raises(ValueError, match=rf"row 1 has {name} in chat_template_kwargs, which rendering decides"):
        read_rows(write([talk | {"chat_template_kwargs": {name: True}}]))
