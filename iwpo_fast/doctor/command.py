"""Prints what there is, and ends with what is wrong."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

from iwpo_fast import __version__
from iwpo_fast.command_config import DoctorConfig
from iwpo_fast.doctor.packages import Package, packages
from iwpo_fast.limits import check_limits
from iwpo_fast.paths import cache_of_user


def examine(config: DoctorConfig) -> None:
    """Print packages, machine and backends.

    Raises:
        ValueError: something that the library needs is absent, too old or broken; the sentence says what to install.
    """
    check_limits(config)
    _print("iwpo-fast", [f"{__version__}, in {Path(__file__).parent.parent}", _python()])
    found = packages()
    needed = [package for package in found if not package.extra]
    _print("needed", map(str, needed) if found else ["not known: iwpo-fast is on the path without being installed"])
    extras = dict.fromkeys(package.extra for package in found if package.extra)
    _print("extras", (_extra(name, found) for name in extras))
    failed = _examine_machine(config.device)
    _print("environment", _environment())
    if wrong := [package for package in needed if not package.is_in_range]:
        names = " ".join(f"'{package.wanted.name}{package.wanted.specifier}'" for package in wrong)
        raise ValueError(f"{len(wrong)} packages that are needed are absent or of other versions: pip install {names}.")
    if failed:
        raise ValueError(failed)
    print("nothing is missing")


def _examine_machine(device: str) -> str:
    """Print what computes here; the sentence on what cannot be imported, if anything."""
    try:
        from iwpo_fast.doctor.machine import computers, what_would_run
        from iwpo_fast.world import World
    except (ImportError, OSError) as error:  # a library of C that is broken or of another machine
        return f"the library cannot be imported ({type(error).__name__}: {error}): install what is named again."
    _print("machine", computers())
    _print("what auto takes here", what_would_run(World.start(device).device))
    return ""


def _print(title: str, lines: Iterable[str]) -> None:
    print(f"{title}\n{''.join(f'  {line}' + chr(10) for line in lines)}")


def _python() -> str:
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"


def _extra(name: str, found: list[Package]) -> str:
    members = [package for package in found if package.extra == name]
    absent = any(package.installed is None for package in members)
    return f"{name}: {', '.join(map(str, members))}" + (f" (pip install 'iwpo-fast[{name}]')" if absent else "")


def _environment() -> list[str]:
    """Variables that change what runs, and the room where caches go."""
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "IWPO_DEBUG", "TRITON_INTERPRET")
    cache = cache_of_user()
    nearest = next(path for path in (cache, *cache.parents) if path.exists())
    room = f"{cache} has room for {shutil.disk_usage(nearest).free / 2**30:.1f} GiB"
    return [*(f"{name}={os.environ[name]}" for name in names if name in os.environ), room]
