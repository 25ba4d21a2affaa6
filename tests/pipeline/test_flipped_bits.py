"""One flipped bit in any file of a pipeline or its cache: the same bytes in the end, or a sentence."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from pipeline_cases import DATA, results, stages_done, toy_config, toy_rows, write_jsonl, write_toy_data

from iwpo_fast.config import CandidateConfig, OptimConfig, RunConfig

OF_A_TRAINING = ("run.json", "config.yaml", "ledger.json", "held_out_ledger.json", "held_out/", "checkpoints/")
UNREAD = tuple(f"train/{name}" for name in OF_A_TRAINING)
"""What a finished pipeline has and does not read again."""


def short_config() -> RunConfig:
    return toy_config(optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=2, tokens_per_batch=1024))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the data and, in `run`, of a pipeline that trains for two steps, because it is done 50 times again."""
    place = tmp_path_factory.mktemp("short")
    with contextlib.chdir(place):
        write_jsonl(DATA, toy_rows(30))
        stages_done(short_config())
    return place


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[int(0.62 * len(content))] ^= 0x40
    path.write_bytes(content)


def files_in(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.slow
def test_a_bit_of_any_file_of_a_finished_pipeline(finished, place) -> None:
    expected, refused = results(finished), []
    names = [path for path in files_in(finished / "run") if path.parts[0] != "cache"]
    assert len(names) > 25
    for name in names:
        shutil.rmtree(place / "run", ignore_errors=True)
        shutil.copytree(finished, place, dirs_exist_ok=True)
        flipped(place / "run" / name)
        try:
            stages_done(short_config())
        except ValueError as error:
            assert name.name in str(error) or name.parent.name in str(error)
            refused.append(str(name))
            continue
        found = results(place)
        for other in expected:
            assert found[other] == expected[other] or other.startswith(UNREAD), f"{name} was flipped, {other} differs"
        assert (place / "run/report.html").read_bytes() == (finished / "run/report.html").read_bytes()
    # Whatever a stage has written it writes again; only the record of them all has no other copy.
    assert refused == ["manifest.json"]


@pytest.fixture(scope="module")
def with_all(tmp_path_factory) -> Path:
    """A finished run with sampled candidates, preferred pairs and an arm; to be read only."""
    place = tmp_path_factory.mktemp("all")
    with contextlib.chdir(place):
        write_toy_data()
        stages_done(with_all_config())
    return place


def with_all_config() -> RunConfig:
    candidates = CandidateConfig(per_prompt=2, max_new_tokens=8, tokens_per_batch=4096)
    optim = OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=2, tokens_per_batch=1024)
    return toy_config(candidates=candidates, arms=["dpo"], optim=optim)


class Reads:
    """Whether this process opens the watched file to read it, as far as Python opens it."""

    def __init__(self) -> None:
        self.watched: Path | None = None
        self.opened = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or self.watched is None or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        is_read = not (isinstance(arguments[1], str) and "w" in arguments[1])
        self.opened |= is_read and os.path.abspath(os.fsdecode(arguments[0])) == str(self.watched)


@pytest.mark.slow
def test_a_bit_of_any_file_of_a_run_with_samples_and_arms(with_all, place) -> None:
    """Whatever is read is seen to be damaged; what keeps its damage is read by nothing."""
    expected, refused, reads = results(with_all), [], Reads()
    names = [path for path in files_in(with_all / "run") if path.parts[0] != "cache"]
    assert {"arms", "samples", "evaluation"} <= {path.parts[0] for path in names}
    for name in names:
        shutil.rmtree(place / "run", ignore_errors=True)
        shutil.copytree(with_all, place, dirs_exist_ok=True)
        flipped(place / "run" / name)
        reads.watched, reads.opened = place / "run" / name, False
        try:
            stages_done(with_all_config())
        except ValueError as error:
            assert name.name in str(error), error
            refused.append(str(name))
            continue
        finally:
            reads.watched = None
        found = results(place)
        differing = {other for other in expected.keys() | found.keys() if expected.get(other) != found.get(other)}
        assert differing <= {str(name)}, f"{name} was flipped: {differing}"
        assert not (differing and reads.opened), f"{name} is damaged, and was read"
    # The page, which is written anew where there are arms, shows the metrics.
    assert sorted(refused) == ["arms/dpo/manifest.json", "manifest.json", "train/metrics.jsonl"]


@pytest.mark.slow
def test_a_bit_of_any_file_of_the_cache(finished, place) -> None:
    expected, names = results(finished), files_in(finished / "run" / "cache")
    assert {path.parts[0] for path in names} == {"features", "reference", "tokens"}
    for name in names:
        shutil.rmtree(place / "run", ignore_errors=True)
        shutil.copytree(finished, place, dirs_exist_ok=True)
        flipped(place / "run" / "cache" / name)
        stages_done(short_config(), start="reference")
        assert results(place) == expected, name
        if name.parts[0] != "tokens":  # of which Parquet keeps bytes that nobody reads
            made = (place / "run/cache" / name).read_bytes()
            assert made == (finished / "run/cache" / name).read_bytes(), f"{name} was not made again"
