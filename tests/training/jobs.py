"""Jobs of two processes that run the command `iwpo train`, each with its own arguments, folder and sabotage."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from forked import CONTEXT, HANG, Done, _run

from iwpo_fast import peers
from iwpo_fast.config import TrainConfig
from iwpo_fast.training import loop

Sabotage = Callable[[], None]


def at_call(where: str, call: int, act: Callable[[], None]) -> Sabotage:
    """Have the loop call `act` just before it calls its function `where` for the `call`-th time; or before it meets."""
    module = peers if where == "meet" else loop

    def sabotage() -> None:
        real, calls = getattr(module, where), []

        def acting(*arguments: Any, **keywords: Any) -> Any:
            calls.append(1)
            if len(calls) == call:
                (Path(os.environ["FAILED_AT"])).write_text(str(time.monotonic()))
                act()
            return real(*arguments, **keywords)

        setattr(module, where, acting)

    return sabotage


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once_connected() -> None:
    """As soon as the two know one another, which takes as long as both need to begin."""
    job = peers._job
    assert job is not None and job.lifeline is not None
    while len(job.lifeline._known) < 2 if job.rank == 0 else not job.lifeline._come.is_set():
        time.sleep(0.01)
    Path(os.environ["FAILED_AT"]).write_text(str(time.monotonic()))
    killed()


def run_job(
    config: TrainConfig,
    folder: Path,
    *,
    flags: Sequence[Sequence[str]] = ((), ()),
    places: Sequence[str] = (".", "."),
    sabotage: Sequence[tuple[Any, ...]] = ((), ()),
    variables: Mapping[str, str] | None = None,
) -> tuple[list[Done], float]:
    """How both processes end, and how many seconds after the failure, or after the start where none was noted.

    Args:
        flags: of each process, beside those of `config`.
        places: folder in which each works, below `folder`.
        sabotage: arguments of `at_call` of each.
        variables: of the environment of both.
    """
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    failed_at = folder / "failed_at"
    failed_at.unlink(missing_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = time.monotonic()
    said = [folder / f"said-{rank}.txt" for rank in range(2)]
    ranks = []
    for rank in range(2):
        said[rank].unlink(missing_ok=True)
        own = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        own |= {"FAILED_AT": str(failed_at)} | dict(variables or {})
        (folder / places[rank]).mkdir(exist_ok=True)
        arguments = (folder / places[rank], own, ["--config", str(recipe), *flags[rank]], sabotage[rank])
        ranks.append(CONTEXT.Process(target=_run, args=(said[rank], _train, arguments), daemon=True))
        ranks[-1].start()
    try:
        for process in ranks:
            process.join(HANG)
        ended = time.monotonic() - (float(failed_at.read_text()) if failed_at.exists() else begin)
    finally:
        for process in ranks:
            process.kill()
    return [Done(p.exitcode, path.read_text()) for p, path in zip(ranks, said, strict=True)], ended


def _train(place: Path, variables: dict[str, str], arguments: list[str], sabotage: tuple[Any, ...]) -> None:
    from iwpo_fast.cli import main

    os.chdir(place)
    os.environ |= variables
    if sabotage:
        at_call(*sabotage)()
    sys.exit(main(["train", *arguments]))
