"""How many threads a command computes with, and how they wait for one another: settled before PyTorch is loaded.

OpenMP reads both from the environment once, when it is loaded. By default it takes every core of the machine, even if
the container may use fewer, and its waiting threads keep their cores busy. If another process then holds one of two
cores, each of the thousand small operations in a step of a small model waits for the thread that has no core. What the
user has set stays as it is. Importing the library changes nothing; only the commands call `settle`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path

from iwpo_fast.paths import expanded, reward_model_folder

NUMBER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

SHORT_WAIT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""A waiting thread of GNU's OpenMP looks this often, for some microseconds, and then sleeps; Intel's sleeps at once."""

WIDTH_OF_A_THREAD = 32
"""Entries of a hidden state that are worth a thread. A guess: no machine with more than two cores has been measured."""

_settled: set[str] = set()
"""Variables that this process has set, and not its user."""


def settle(width: int | None = None) -> None:
    """Set the environment variables that say how many threads OpenMP starts and how they wait, unless they are set.

    Once PyTorch is loaded they have no effect, so nothing is set.

    Args:
        width: hidden size of the model; None if it is not known.
    """
    if "torch" in sys.modules:
        return
    if not _given(WAITING):
        os.environ |= SHORT_WAIT
    if not _given(NUMBER):
        os.environ[NUMBER[0]] = str(suited(cores(), width, _processes_here()))
        _settled.add(NUMBER[0])


def chosen_by_user() -> bool:
    """Whether the user, or torchrun, has chosen the number of threads, which then stays."""
    return any(name in os.environ and name not in _settled for name in NUMBER)


def suited(cores: int, width: int | None, processes: int = 1) -> int:
    """Threads for each of several processes that share `cores`; fewer if the model is too narrow for them."""
    share = cores // processes
    return max(1, share if width is None else min(share, width // WIDTH_OF_A_THREAD))


def cores(root: Path = Path("/"), cpus: Collection[int] | None = None) -> int:
    """Cores that this process may use, at least 1, by its affinity and by the quota of its container.

    Two hardware threads of one core count once, as in PyTorch.

    Args:
        root: where `proc` and `sys` are.
        cpus: numbers of the CPUs that the process may run on; None asks the system.
    """
    if cpus is None:
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    quota = min(_quotas(root), default=float("inf"))
    return max(1, int(min(len({_core(root, cpu) for cpu in cpus}), quota)))


def hidden_size(path: str) -> int | None:
    """Hidden size of the model in a folder; None if there is no model, or its configuration does not say."""
    try:
        settings = json.loads((expanded(path) / "config.json").read_text(encoding="utf-8"))
        return int((settings.get("text_config") or settings)["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def hidden_size_of_reward_model(path: str) -> int | None:
    """Hidden size of the model that a reward model reads; None if the folder does not say."""
    try:
        record = json.loads((reward_model_folder(path) / "reward_model.json").read_text(encoding="utf-8"))
        return int(record["language_model"]["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _given(names: Collection[str]) -> bool:
    return any(name in os.environ for name in names)


def _processes_here() -> int:
    """Processes of this job on this machine, as their launcher says."""
    value = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(value)) if value.isdecimal() else 1


def _core(root: Path, cpu: int) -> str:
    """A name of the core that a CPU belongs to: the list of the core's CPUs."""
    siblings = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return _text(siblings) or str(cpu)


def _quotas(root: Path) -> list[float]:
    """How many CPUs each control group around this process allows, if it has a limit."""
    quotas = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if not controllers:
            folders = _folders(root, ("sys/fs/cgroup", "sys/fs/cgroup/unified"), place)
            limits = [_ratio(_text(folder / "cpu.max").split()) for folder in folders]
        elif "cpu" in controllers.split(","):
            folders = _folders(root, ("sys/fs/cgroup/cpu", f"sys/fs/cgroup/{controllers}"), place)
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            limits = [_ratio([_text(folder / name) for name in names]) for folder in folders]
        else:
            continue
        quotas += [limit for limit in limits if limit is not None]
    return quotas


def _folders(root: Path, mounts: Collection[str], place: str) -> list[Path]:
    """A group's folder and those of the groups around it; inside a container often only the outermost is there."""
    inside = Path(place.strip("/"))
    return [root / mount / part for mount in dict.fromkeys(mounts) for part in (inside, *inside.parents)]


def _ratio(numbers: list[str]) -> float | None:
    """Quota over period; None if there is no file, or no limit, which is written as `max` or -1."""
    if len(numbers) != 2 or not all(number.isdecimal() and int(number) for number in numbers):
        return None
    return int(numbers[0]) / int(numbers[1])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
