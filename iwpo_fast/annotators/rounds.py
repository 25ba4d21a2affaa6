"""Rounds of EM: each trains the adapters of all types from the reference on, and then tells annotators apart anew.

A round is a run of its own in a folder of its own, so it is kept, resumed and looked at as any other. Its last step
leaves the likelihood of the votes, from which the shares of the next round follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from iwpo_fast.agreement import check_rows, check_told
from iwpo_fast.annotators import start
from iwpo_fast.annotators.folder import TypesFolder
from iwpo_fast.annotators.mixing import mix
from iwpo_fast.annotators.posterior import Floats, Round, round_line
from iwpo_fast.annotators.shares import check_orders, names_of, with_shares
from iwpo_fast.checksums import Damaged
from iwpo_fast.config import DataConfig, TrainConfig, TypesConfig
from iwpo_fast.data import Rows
from iwpo_fast.files import load_record, load_tensors, save_record
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.training.run_folder import settings_of
from iwpo_fast.training.summary import TrainSummary
from iwpo_fast.world import World

Read = Callable[[DataConfig], tuple[Rows, Rows | None]]
TrainRound = Callable[[TrainConfig, Read], TrainSummary | None]


def train_types(config: TrainConfig, read: Read, train_round: TrainRound) -> TrainSummary | None:
    """All rounds, one after the other, and the mixture of their last policies; what is finished is passed over.

    Args:
        read: gives the rows, as of `train`.
        train_round: trains on the rows that a reader gives.

    Returns:
        The summary of the last round, or None after a dry run, which plans one round.

    Raises:
        ValueError: annotators are absent, or the settings, data or folder are wrong; one sentence.
    """
    assert config.types is not None
    world, folder = World.start(config.device), TypesFolder(Path(config.output_dir))
    check_told(world, config)  # before ranks wait for one another's clusters
    _check_folder(folder)
    rows, held_out = read(config.data)
    check_rows(world, (rows, held_out))
    names = names_of(rows, held_out)
    _check_orders(config, rows, held_out)
    _check_held_out(config.types, rows, held_out)
    world.say(f"{len(names):,} annotators, {len(rows):,} votes to train on, {len(held_out or ()):,} held out")
    if config.dry_run:
        gamma = np.full((len(names), config.types.count), 1 / config.types.count)
        return train_round(round_of(config, 1), _reader(rows, held_out, names, gamma))
    gamma = _start(config, folder, rows, names, world)
    reports: list[dict[str, Any]] = []
    summary, rounds = None, 1 if config.types.count == 1 else config.types.rounds
    for number in range(1, rounds + 1):
        world.say(f"\n==== round {number} of {rounds} ====")
        summary = train_round(round_of(config, number), _reader(rows, held_out, names, gamma))
        found = _found(folder.round(number).votes, gamma)
        reports.append(found.report())
        gamma = found.after
        world.say(*_lines(number, reports[-1]))
        if world.is_main:
            save_record(folder.report, _report(reports, names, gamma))
        world.barrier()
    if config.types.count > 1 and config.types.mixture_prompts:
        mix(config, folder, rows, rows if held_out is None else held_out, world)
    return summary


def cost_lines(types: TypesConfig | None) -> list[str]:
    """What a plan of one policy is short of."""
    if types is None:
        return []
    trainings = types.rounds * types.count if types.count > 1 else 1
    return [f"this is of one policy: {types.rounds} rounds of {types.count} types train {trainings} times as long"]


def round_of(config: TrainConfig, number: int) -> TrainConfig:
    """The settings of round `number`, counted from 1, which do not depend on how many there are, or on the mixture."""
    assert config.types is not None
    types = replace(config.types, rounds=1, mixture_prompts=0, mixture_tokens=1, regret_weights=[])
    path = TypesFolder(Path(config.output_dir)).round(number).path
    return replace(config, types=types, output_dir=str(path))


def _check_folder(folder: TypesFolder) -> None:
    folder.refuse_links()
    if (folder.path / "run.json").exists() or (folder.path / "manifest.json").exists():
        raise ValueError(f"{folder.path} holds a run without types: choose another output_dir.")


def _check_orders(config: TrainConfig, *parts: Rows | None) -> None:
    objective = Mixture.of(config.objective).reading(Reads.CANDIDATES)
    if objective is None:
        return
    for part in filter(None, parts):
        check_orders(part, objective)


def _check_held_out(types: TypesConfig, rows: Rows, held_out: Rows | None) -> None:
    if held_out is None and types.count > 1 and types.votes == "held_out":
        raise ValueError(
            f"types.votes is held_out and no row of {rows.source} is held out: raise data.eval_fraction, or set "
            "types.votes to trained."
        )


def _reader(rows: Rows, held_out: Rows | None, names: tuple[str, ...], gamma: Floats) -> Read:
    """What gives the rows with the shares of their annotators."""
    both = with_shares(rows, names, gamma), None if held_out is None else with_shares(held_out, names, gamma)
    return lambda _: both


def _start(config: TrainConfig, folder: TypesFolder, rows: Rows, names: tuple[str, ...], world: World) -> Floats:
    """γ [A, K] of the first round: what is kept, if it is of this training, or else made and kept."""
    assert config.types is not None
    asked = {"settings": settings_of(replace(round_of(config, 1), output_dir="")), "annotators": list(names)}
    kept = _kept(folder.start, asked)
    if (known := world.from_main(kept)) is not None:
        return np.array(known)
    count = config.types.count
    if count == 1:
        gamma = np.ones((len(names), 1))
    elif config.types.start == "clusters":
        placed = with_shares(rows, names, np.ones((len(names), 1)))
        gamma = start.clustered(config, placed, len(names), world)
    else:
        gamma = start.given(config.types.start, names, count)
    if world.is_main:
        folder.take()
        save_record(folder.start, asked | {"shares": gamma.tolist()})
    world.barrier()
    return gamma


def _kept(path: Path, asked: dict[str, Any]) -> list[list[float]] | None:
    try:
        record = load_record(path)
    except (Damaged, FileNotFoundError):
        return None
    shares: list[list[float]] = record.pop("shares", None)
    return shares if record == asked else None


def _found(path: Path, before: Floats) -> Round:
    """What the votes after a round say; annotators behind the last one with a vote have none.

    Raises:
        ValueError: what the round left is damaged or gone.
    """
    try:
        tensors = load_tensors(path)
    except (Damaged, FileNotFoundError) as error:
        raise ValueError(
            f"{path} is damaged or gone: delete {path.parent} to train that round again, and what comes after it."
        ) from error
    found, votes = np.zeros_like(before), np.zeros(len(before), dtype=np.int64)
    found[: len(tensors["votes"])] = tensors["log_likelihood"]
    votes[: len(tensors["votes"])] = tensors["votes"]
    return Round(before, found, votes)


def _lines(number: int, report: dict[str, Any]) -> list[str]:
    without = report["without_votes"]
    missing = f"{without} annotators have no vote to be told by, and are of each type as others are on average"
    return [round_line(number, report), *([missing] if without else [])]


def _report(reports: list[dict[str, Any]], names: tuple[str, ...], gamma: Floats) -> dict[str, Any]:
    """What `annotators.json` holds: numbers of each round, and the shares of every annotator after the last."""
    return {"rounds": reports, "annotators": {name: row.tolist() for name, row in zip(names, gamma, strict=True)}}
