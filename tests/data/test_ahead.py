"""Batches made before their turn: order, errors, how far ahead, copies, and threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import HANG

from iwpo_fast.data.ahead import WAITING, made_ahead
from iwpo_fast.data.tensor_dataclass import TensorDataclass, copied_to

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Numbers(TensorDataclass):
    values: torch.Tensor
    name: str = ""
    inner: TensorDataclass | None = None


def square(key: int) -> Numbers:
    return Numbers(torch.tensor([key**2]))


@pytest.mark.parametrize("workers", [0, 1, 3, "auto"])
def test_batches_come_in_the_order_of_their_keys(workers) -> None:
    found = [(key, batch.values.item()) for key, batch in made_ahead(square, range(20), CPU, workers)]
    assert found == [(key, key**2) for key in range(20)]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_keys_make_no_batches(workers) -> None:
    assert list(made_ahead(square, [], CPU, workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_what_making_a_batch_raises_is_raised_where_it_is_asked_for(workers) -> None:
    def make(key: int) -> Numbers:
        if key == 3:
            raise ValueError("row 3 is broken")
        return square(key)

    seen = []
    with pytest.raises(ValueError, match="row 3 is broken"):
        for key, _ in made_ahead(make, range(9), CPU, workers):
            seen.append(key)
    assert seen == [0, 1]  # the batch before the broken one was already waiting


def batch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_threads_are_a_few_batches_ahead_and_end_when_nobody_asks_any_more() -> None:
    asked, made = [], []

    def keys() -> Iterator[int]:
        for key in count():
            asked.append(key)
            yield key

    def make(key: int) -> Numbers:
        made.append(threading.current_thread().name)
        return square(key)

    batches = made_ahead(make, keys(), CPU, workers=2)
    assert not asked  # nothing begins before the first batch is asked for
    assert [key for key, _ in islice(batches, 3)] == [0, 1, 2]
    assert len(asked) == 4 + 2 * WAITING and batch_threads()
    assert all(name.startswith("batches") for name in made)
    batches.close()
    assert not batch_threads()


def test_a_batch_is_made_while_the_one_before_it_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def make(key: int) -> Numbers:
        begun[key].set()
        return square(key)

    for key, _ in made_ahead(make, range(3), CPU, workers=1):
        assert all(event.wait(HANG) for event in begun[key:])


def test_on_a_gpu_batches_are_pinned_by_the_thread_and_the_next_is_copied_before_this_one_is_used(monkeypatch) -> None:
    gpu: Any = SimpleNamespace(type="cuda", index=1)
    events, set_for = [], []
    monkeypatch.setattr(torch.cuda, "set_device", set_for.append)

    class Recorded(TensorDataclass):
        def __init__(self, key: int) -> None:
            self.key = key

        def pin_memory(self) -> Recorded:
            assert threading.current_thread().name.startswith("batches")
            time.sleep(0.001 * (3 - self.key))
            self.pinned = True
            return self

        def to(self, device: torch.device, *, non_blocking: bool = True) -> Recorded:
            assert device is gpu and self.pinned and threading.current_thread() is threading.main_thread()
            events.append(f"copy {self.key}")
            return self

    for key, _ in made_ahead(Recorded, range(3), gpu):
        events.append(f"use {key}")
    assert events == ["copy 0", "copy 1", "use 0", "copy 2", "use 1", "use 2"]
    assert set_for == [1]


def test_threads_have_the_current_gpu_where_none_is_named(monkeypatch) -> None:
    set_for = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: set_for.append(torch.device("cuda", device).index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: {threading.main_thread(): 2}[threading.current_thread()])
    monkeypatch.setattr(Numbers, "pin_memory", lambda self: self)
    monkeypatch.setattr(Numbers, "to", lambda self, device: self)
    assert len(list(made_ahead(square, range(3), torch.device("cuda"), workers=2))) == 3
    assert set_for and set(set_for) == {2}


def test_all_tensors_move_also_those_inside_and_nothing_else(monkeypatch) -> None:
    nowhere = torch.device("meta")
    outer = Numbers(torch.ones(2), "outer", Numbers(torch.ones(3), "inner"))
    moved = outer.to(nowhere)
    assert isinstance(moved.inner, Numbers) and moved.values.is_meta and moved.inner.values.is_meta
    assert (moved.name, moved.inner.name, moved.inner.inner) == ("outer", "inner", None)
    assert not outer.values.is_meta
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(len(self)) or self)
    outer.pin_memory()
    assert pinned == [2, 3]


def test_arrays_are_copied_by_way_of_pinned_memory_on_a_gpu_alone(monkeypatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pytest.fail("pinned for a CPU"))
    assert copied_to(CPU, torch.arange(3).numpy()).tolist() == [0, 1, 2]
