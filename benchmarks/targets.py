"""What the operators are meant to reach, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.linear_token_logps.problem import FROZEN, NO_GRADIENT, TRAINABLE
from benchmarks.table import Record, ratio

NAIVE, RECOMPUTED = "naive, all tokens", "ours, recomputed"
TRL, LIGER = "TRL chunked", "Liger fused DPO"
MIB = 1 << 20
EXTRA_MIB = 512.0  # beyond the gradient of the head
FASTER_THAN_PEERS = 3.0  # where half of the tokens are prompts


def over_products(hidden: int) -> float:
    """Times the bare products: 1.13 at H = 4096, 1.35 at 1536. What is not product is traffic, which H divides."""
    return round(1 + 535 / hidden, 2)


@dataclass(frozen=True)
class Target:
    """A number to reach: `measured` has to be at most `limit`, or at least where `at_least`."""

    shape: str
    what: str
    limit: float
    measured: float
    at_least: bool = False
    unit: str = "×"

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def head_targets(records: list[Record], device_type: str) -> list[Target]:
    """Of one shape of `linear_token_logps`; a target is left out where one of its two sides was not measured."""
    by_key = {record.key: record for record in records}

    def find(label: str, mode: str) -> Record | None:
        return by_key.get(f"{label} [{mode}]")

    checks = _on_cpu if device_type == "cpu" else _on_gpu
    return [target for target in checks(records[0].shape, find) if target is not None]


Find = Callable[[str, str], Record | None]


def _on_cpu(shape: dict, find: Find) -> Iterator[Target | None]:
    name = shape["name"]
    for mode, time, memory in ((FROZEN, 0.40, 0.10), (TRAINABLE, 0.60, 0.30)):
        ours, naive = find("ours", mode), find(NAIVE, mode)
        yield _time(name, f"{mode}: time over naive's", time, ours, naive)
        yield _memory(name, f"{mode}: extra memory over naive's", memory, ours, naive)
        yield _time(name, f"{mode}: time over that of {TRL}", 0.50, ours, find(TRL, mode))


def _on_gpu(shape: dict, find: Find) -> Iterator[Target | None]:
    name = shape["name"]
    if shape["supervised"] == 1.0:
        limit = over_products(shape["hidden"])
        rows = ((NO_GRADIENT, "ours"), (FROZEN, "ours"), (TRAINABLE, "ours"), (TRAINABLE, RECOMPUTED))
        for mode, label in rows:
            ours = find(label, mode)
            floor = find(ours.floor, mode) if ours else None
            yield _time(name, f"{mode}: time of {label} over the bare products'", limit, ours, floor)
    head_mib = shape["vocab"] * shape["hidden"] * 2 / MIB
    for mode, label, limit in ((FROZEN, "ours", EXTRA_MIB), (TRAINABLE, RECOMPUTED, EXTRA_MIB + head_mib)):
        ours = find(label, mode)
        if ours is not None and ours.extra_mib is not None:
            yield Target(name, f"{mode}: extra memory of {label}", limit, ours.extra_mib, unit=" MiB")
    if shape["supervised"] == 0.5:
        for mode in (FROZEN, TRAINABLE):
            for label in (TRL, LIGER):
                speedup = ratio(find(label, mode), find("ours", mode))
                if speedup is not None:
                    what = f"{mode}: times faster than {label}"
                    yield Target(name, what, FASTER_THAN_PEERS, speedup["median"], at_least=True)


def _time(shape: str, what: str, limit: float, ours: Record | None, other: Record | None) -> Target | None:
    measured = ratio(ours, other)
    return Target(shape, what, limit, measured["median"]) if measured else None


def _memory(shape: str, what: str, limit: float, ours: Record | None, other: Record | None) -> Target | None:
    if ours is None or other is None or not ours.extra_mib or not other.extra_mib:
        return None
    return Target(shape, what, limit, ours.extra_mib / other.extra_mib)
