"""One flipped bit anywhere in a file that was written here is found, or changes nothing that is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from iwpo_fast import checksums
from iwpo_fast.checksums import Damaged
from iwpo_fast.files import (
    check_readable,
    link,
    load_record,
    load_tensors,
    load_with_metadata,
    save_json,
    save_record,
    save_tensors,
    written_aside,
)

TENSORS = {"a": torch.tensor([1.5, -2.0]), "b": torch.tensor([[3], [4]]), "half": torch.tensor(0.5).half()}
RECORD = {"step": 12, "rate": 1e-3, "nested": {"10": [1, None], "9": "text"}}


def each_flipped(path: Path) -> list[Callable[[], None]]:
    """For every bit of a file, what writes it with that bit turned."""
    whole = path.read_bytes()

    def flip(place: int, bit: int) -> None:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])

    return [lambda p=place, b=bit: flip(p, b) for place in range(len(whole)) for bit in range(8)]


@pytest.mark.slow
def test_every_bit_of_a_file_of_tensors_counts(tmp_path) -> None:
    path = tmp_path / "values.safetensors"
    save_tensors(path, TENSORS, {"of": "somebody"})
    arrays, about = load_with_metadata(path)
    assert about == {"of": "somebody"}
    assert {name: torch.from_numpy(array).equal(TENSORS[name]) for name, array in arrays.items()} == dict.fromkeys(
        TENSORS, True
    )
    harmless = 0
    for flip in each_flipped(path):
        flip()
        try:
            found, said = load_with_metadata(path)
        except Damaged as error:
            assert str(path) in str(error)
            continue
        harmless += 1
        assert found.keys() == arrays.keys()
        assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())
        assert said.get("of", "somebody") == "somebody"
    assert harmless < 200  # in names of entries of the metadata, which then looks like that of an earlier version


@pytest.mark.slow
def test_every_bit_of_a_record_counts(tmp_path) -> None:
    path = tmp_path / "record.json"
    save_record(path, RECORD)
    assert load_record(path) == RECORD
    for flip in each_flipped(path):
        flip()
        try:
            found = load_record(path)
        except Damaged:
            continue
        # Spaces between entries may change; a hash under another name leaves a record as older versions wrote it.
        assert {name: found[name] for name in RECORD} == RECORD


def test_files_of_versions_before_are_read_as_they_are(tmp_path) -> None:
    save_file(TENSORS, tmp_path / "old.safetensors", {"source": "here", "of": "there"})
    arrays, about = load_with_metadata(tmp_path / "old.safetensors")
    assert about == {"source": "here", "of": "there"} and arrays.keys() == TENSORS.keys()
    save_json(tmp_path / "old.json", RECORD)
    assert load_record(tmp_path / "old.json") == RECORD


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_record_is_damaged(tmp_path, content) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"record\.json is damaged"):
        load_record(path)
    with pytest.raises(FileNotFoundError):
        load_record(tmp_path / "absent.json")


def test_a_record_has_the_hash_of_what_json_makes_of_it(tmp_path) -> None:
    save_record(tmp_path / "a.json", {"rows": {10: (1.0, float("inf")), 9: None}})
    assert load_record(tmp_path / "a.json") == {"rows": {"10": [1.0, float("inf")], "9": None}}


def test_hashes_of_arrays_tell_types_and_shapes_apart() -> None:
    zeros = [np.zeros(4, np.float32), np.zeros(4, np.int32), np.zeros((2, 2), np.float32), np.zeros(5, np.float32)]
    assert len({checksums.of_arrays({"a": array}) for array in zeros} | {checksums.of_arrays({"b": zeros[0]})}) == 5
    assert checksums.of_arrays({"a": zeros[2]}) == checksums.of_arrays({"a": torch.zeros(2, 2)})
    turned = np.arange(6.0).reshape(2, 3).T
    assert checksums.of_arrays({"a": turned}) == checksums.of_arrays({"a": torch.from_numpy(turned)})


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_arrays_of_nothing_have_a_hash(tmp_path, shape) -> None:
    empty = torch.empty(shape)
    assert checksums.of_arrays({"a": empty}) == checksums.of_arrays({"a": empty.numpy()})
    save_tensors(tmp_path / "empty.safetensors", {"a": empty, "b": torch.ones(1).expand(0)})
    assert load_tensors(tmp_path / "empty.safetensors")["a"].shape == shape


def test_files_that_changed_or_are_gone_are_named(tmp_path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name * 5)
    hashes = checksums.of_files(tmp_path, tmp_path.iterdir())
    assert checksums.changed(tmp_path, hashes) == []
    (tmp_path / "a").write_text("aaaab")
    (tmp_path / "c").unlink()
    assert checksums.changed(tmp_path, hashes) == ["a", "c"]


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request) -> int:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask) -> None:
    save_tensors(tmp_path / "values.safetensors", TENSORS)  # safetensors itself would make it private
    save_record(tmp_path / "record.json", RECORD)
    with written_aside(tmp_path / "folder") as aside:
        (aside / "inner").mkdir(parents=True)
        save_file(TENSORS, aside / "inner" / "values.safetensors")
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


def test_a_file_with_another_name_elsewhere_keeps_its_permissions(tmp_path) -> None:
    (tmp_path / "one").write_text("of somebody else")
    (tmp_path / "one").chmod(0o640)
    link(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o640


def test_a_file_that_may_not_be_read_is_not_said_to_be_absent(tmp_path, monkeypatch) -> None:
    path = tmp_path / "values.safetensors"
    save_tensors(path, TENSORS)
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # because a superuser may read all files
        patch.setattr("iwpo_fast.files.open", refuse, raising=False)
        for read in (check_readable, load_tensors):
            with pytest.raises(ValueError, match=r"values\.safetensors cannot be read \(Permission denied\)") as error:
                read(path)
            assert not isinstance(error.value, Damaged)
    assert path.read_bytes() == before


def test_a_hash_is_beside_what_json_says(tmp_path) -> None:
    save_record(tmp_path / "record.json", RECORD)
    assert json.loads((tmp_path / "record.json").read_text()).keys() == {*RECORD, checksums.KEY}
