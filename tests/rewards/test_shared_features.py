"""Features in a cache that several jobs use, that is damaged, or for which the disk has no room."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import CONTEXT, HANG
from test_features import features, make_pairs, make_policy

from iwpo_fast.data.pairs import Pairs
from iwpo_fast.models import Policy
from iwpo_fast.rewards import store


def some_pairs() -> Pairs:
    draw = np.random.default_rng(1)

    def text() -> list[int]:
        return draw.integers(4, 260, draw.integers(1, 14)).tolist()

    return make_pairs([(text(), text(), text()) for _ in range(12)])


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy()


def array_in(folder: Path, name: str) -> Path:
    (found,) = folder.rglob(name)
    return found


def compute_slowly(folder: Path, ours: Connection) -> None:
    """Say what the features are, and how many batches this process has run for them."""
    torch.set_num_threads(1)
    policy, pairs, ran = make_policy(), some_pairs(), []
    save, read = store.save_part, store.read_part
    store.save_part = lambda *arguments: (ran.append(1), save(*arguments))
    store.read_part = lambda *arguments: (time.sleep(0.05), read(*arguments))[1]
    ours.send("ready")
    ours.recv()
    found = features(policy, pairs, folder)
    ours.send((len(ran), found.prompt.tobytes(), found.response.tobytes(), found.mean_logps.tobytes()))


@pytest.mark.slow
def test_of_two_jobs_that_begin_together_one_computes_and_both_have_the_features(tmp_path, policy) -> None:
    alone = features(policy, some_pairs(), tmp_path / "alone")
    jobs = []
    for _ in range(2):
        here, there = CONTEXT.Pipe()
        process = CONTEXT.Process(target=compute_slowly, args=(tmp_path / "shared", there), daemon=True)
        process.start()
        jobs.append((process, here))
    for _, here in jobs:
        assert here.poll(HANG) and here.recv() == "ready"
    for _, here in jobs:
        here.send("go")
    found = [here.recv() for _, here in jobs]
    for process, _ in jobs:
        process.join(HANG)
        assert process.exitcode == 0
    assert sorted(ran > 0 for ran, *_ in found) == [False, True]
    expected = [alone.prompt.tobytes(), alone.response.tobytes(), alone.mean_logps.tobytes()]
    assert all(arrays == expected for _, *arrays in found)
    assert not store.has_parts(array_in(tmp_path / "shared", "prompt.npy").parent)


def hold(folder: Path, ours: Connection) -> None:
    with store.held(folder):
        ours.send("held")
        ours.recv()


@pytest.mark.slow
def test_a_job_waits_for_one_that_computes_and_goes_on_when_that_dies(tmp_path, policy) -> None:
    pairs = some_pairs()
    expected = features(policy, pairs, tmp_path)
    folder = array_in(tmp_path, "prompt.npy").parent
    (folder / "prompt.npy").unlink()
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=hold, args=(folder, there), daemon=True)
    process.start()
    assert here.recv() == "held"
    waiting = CONTEXT.Process(target=features_of_some_pairs, args=(tmp_path, tmp_path / "said.txt"), daemon=True)
    waiting.start()
    waiting.join(3)
    assert waiting.exitcode is None and not (folder / "prompt.npy").exists()
    process.kill()
    waiting.join(HANG)
    assert waiting.exitcode == 0
    said = (tmp_path / "said.txt").read_text()
    assert f"another process is computing the features in {folder}: waiting for it" in said
    assert np.array_equal(features(policy, pairs, tmp_path).prompt, expected.prompt)


def features_of_some_pairs(folder: Path, said: Path) -> None:
    torch.set_num_threads(1)
    with open(said, "w") as file, contextlib.redirect_stdout(file):
        features(make_policy(), some_pairs(), folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prompt.npy", "response.npy", "checksums.json"])
@pytest.mark.parametrize("place", [0.05, 0.62, 0.98])
def test_one_flipped_bit_of_features_is_found(policy, tmp_path, name, place, caplog) -> None:
    pairs = some_pairs()
    features(policy, pairs, tmp_path)
    path = array_in(tmp_path, name)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(damaged))] ^= 0x40
    path.write_bytes(damaged)
    features(policy, pairs, tmp_path)
    assert "are damaged: computing them again" in caplog.text
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_one_flipped_bit_of_a_finished_batch_is_found(policy, tmp_path, monkeypatch) -> None:
    pairs = some_pairs()
    features(policy, pairs, tmp_path / "whole")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "join_parts", stop)
        with pytest.raises(KeyboardInterrupt):
            features(policy, pairs, tmp_path / "killed")
    for part in (tmp_path / "killed").rglob("parts/*"):
        content = bytearray(part.read_bytes())
        content[-3] ^= 1
        part.write_bytes(content)
    features(policy, pairs, tmp_path / "killed")
    for name in ("prompt.npy", "response.npy"):
        ours, theirs = (array_in(tmp_path / which, name).read_bytes() for which in ("killed", "whole"))
        assert ours == theirs


def test_features_of_versions_before_are_read_as_they_are(policy, tmp_path, caplog) -> None:
    pairs = some_pairs()
    expected = features(policy, pairs, tmp_path)
    array_in(tmp_path, "checksums.json").unlink()
    found = features(policy, pairs, tmp_path)
    assert np.array_equal(found.response, expected.response) and not caplog.text


def test_the_room_of_an_array_is_reserved_before_it_is_mapped(tmp_path) -> None:
    array = store._new_array(tmp_path / "array.npy", 4000, 256)
    assert array.shape == (4000, 256)
    status = os.stat(tmp_path / "array.npy")
    assert status.st_size > array.nbytes and status.st_blocks * 512 >= status.st_size  # sparse, it would have few


def test_a_full_disk_is_an_error_before_anything_is_written_to_memory(policy, tmp_path, monkeypatch) -> None:
    def full(handle: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left on device"):
            features(policy, some_pairs(), tmp_path)
    assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob(".*.tmp"))
    features(policy, some_pairs(), tmp_path)


def test_features_that_may_not_be_read_are_left_alone(policy, tmp_path, monkeypatch) -> None:
    features(policy, some_pairs(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("iwpo_fast.files.open", refuse, raising=False)
    with pytest.raises(ValueError, match=r"prompt\.npy cannot be read \(Permission denied\): have its owner open it"):
        features(policy, some_pairs(), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
