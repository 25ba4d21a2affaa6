"""Damaged Arrow files are refused in a sentence; what they say of places in memory is not believed unseen."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather
import pytest
from forked import run_forked

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows

ROWS = [
    {
        "prompt": f"question {i} " * 4,
        "chosen": [{"role": "assistant", "content": f"yes {i}"}],
        "rejected": [{"role": "assistant", "content": f"no {i}"}] if i % 2 else None,
        "score_chosen": 8.0 + i,
    }
    for i in range(6)
]


def as_file(folder: Path) -> Path:
    pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), folder / "data.arrow", compression="uncompressed")
    return folder / "data.arrow"


def as_stream(folder: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return folder / "data.arrow"


def as_dataset(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    (path,) = (folder / "saved").glob("*.arrow")
    return path


def read_with_bytes_turned(path: Path, source: Path) -> None:
    """Leaves `reached` behind: the byte that was last turned."""
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        turned = whole[place] ^ (0x40, 0x80, 0xFF)[place % 3]
        path.write_bytes(whole[:place] + bytes([turned]) + whole[place + 1 :])
        path.with_name("reached").write_text(str(place))
        try:
            read_rows(DataConfig(path=str(source)))
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [as_file, as_stream, as_dataset])
def test_no_turned_byte_of_an_arrow_file_ends_the_process(kind, tmp_path) -> None:
    path = kind(tmp_path)
    source = path.parent if kind is as_dataset else path
    done = run_forked(read_with_bytes_turned, path, source)
    assert done.exitcode == 0, f"byte {path.with_name('reached').read_text()}: {done.said}"


def test_offsets_behind_the_end_of_a_file_are_named(tmp_path) -> None:
    offsets, texts = pa.array([0, 1 << 30, 8], pa.int32()).buffers()[1], pa.py_buffer(b"question")
    beyond = pa.Array.from_buffers(pa.utf8(), 2, [None, offsets, texts])
    rows = pa.record_batch({"prompt": beyond, "chosen": ["a", "b"], "rejected": ["c", "d"]})
    path = tmp_path / "data.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_batch(rows)
    sentence = r"data\.arrow cannot be read as Arrow \(.*[Oo]ffset.*make it or fetch it again"
    with pytest.raises(ValueError, match=sentence):
        read_rows(DataConfig(path=str(path)))
