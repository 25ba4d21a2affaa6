"""A run whose files were damaged or lost comes to the numbers of a whole one, or is refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor
from toy_pairs import write_pairs

from iwpo_fast.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    TinyConfig,
    TrainConfig,
)
from iwpo_fast.files import load_record, save_json
from iwpo_fast.training import loop, train


def settings_in(folder: Path) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(path=str(folder / "pairs.jsonl"), eval_fraction=0.2, cache_dir=str(folder / "cache")),
        model=ModelConfig(tiny=TinyConfig(vocab_size=320, hidden_size=32, layers=1, heads=2)),
        optim=OptimConfig(lr=1e-3, pairs_per_step=8, max_steps=8, epochs=4),
        log=LogConfig(every=1, eval_every=2),
        checkpoint=CheckpointConfig(every=3),
        output_dir=str(folder / "run"),
        device="cpu",
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with data, a cache, a finished run, and one that ended in its sixth step, with one checkpoint."""
    folder = tmp_path_factory.mktemp("made")
    write_pairs(folder / "pairs.jsonl", rows=40)
    settings = settings_in(folder)
    train(settings)
    os.replace(folder / "run", folder / "whole")
    real = loop.train_step

    def stopped(*arguments) -> Tensor:
        if arguments[-2].step == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    os.replace(folder / "run", folder / "interrupted")
    return folder


def in_its_place(made: Path, name: str) -> tuple[TrainConfig, Path]:
    shutil.rmtree(made / "run", ignore_errors=True)
    shutil.copytree(made / name, made / "run")
    return settings_in(made), made / "run"


@pytest.fixture
def whole(made) -> tuple[TrainConfig, Path]:
    """The finished run, and its folder."""
    return in_its_place(made, "whole")


@pytest.fixture
def interrupted(made) -> tuple[TrainConfig, Path]:
    """The run that can be resumed, and its folder."""
    return in_its_place(made, "interrupted")


def same_as_whole(made: Path) -> bool:
    """All files are those of the finished run, except for the metrics, which hold times."""
    files = [path.relative_to(made / "whole") for path in (made / "whole").rglob("*") if path.is_file()]
    with_times = ("metrics.jsonl", "metrics.json")
    return all(
        (made / "run" / path).read_bytes() == (made / "whole" / path).read_bytes()
        for path in files
        if path.name not in with_times
    )


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flip(path: Path, place: float = 0.62) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x40
    path.write_bytes(content)


def weights_of(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


FILES_OF_A_CHECKPOINT = ["weights.safetensors", "optimizer.safetensors", "state.json", "metrics.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES_OF_A_CHECKPOINT)
def test_one_flipped_bit_of_a_checkpoint_is_found(interrupted, name) -> None:
    settings, folder = interrupted
    assert sorted(path.name for path in (folder / "checkpoints/step-00000003").iterdir()) == sorted(
        FILES_OF_A_CHECKPOINT
    )
    for place in (0.0, 0.3, 0.62, 0.999):
        flip(folder / "checkpoints/step-00000003" / name, place)
        with pytest.raises(ValueError, match="step-00000003 is damaged: delete this folder to resume"):
            train(settings)
        flip(folder / "checkpoints/step-00000003" / name, place)
    assert train(settings).steps == 8


@pytest.mark.parametrize("name", ["config.yaml", "ledger.json", "held_out_ledger.json"])
def test_what_a_run_writes_for_people_is_written_again_as_it_goes_on(interrupted, made, name) -> None:
    settings, folder = interrupted
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    train(settings)
    assert same_as_whole(made)


def forget_hashes(folder: Path) -> None:
    """Make the checkpoint one of versions that kept no hashes and no metrics."""
    state = folder / "checkpoints/step-00000003/state.json"
    record = load_record(state)
    del record["files"]
    save_json(state, record)
    (state.parent / "metrics.json").unlink()


def test_a_checkpoint_without_hashes_is_resumed_as_versions_before_did(interrupted, made) -> None:
    settings, folder = interrupted
    forget_hashes(folder)
    train(settings)
    assert same_as_whole(made) and steps_of(folder) == steps_of(made / "whole")


LOSSES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_text(""),
    "deleted": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:90]),
    "damaged": lambda path: path.write_bytes(path.read_bytes().replace(b"eval_loss", b"eval_boss")),
    "no text": lambda path: path.write_bytes(b"\xff" * 200),
}


@pytest.mark.slow
@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_lost_metrics_are_those_that_the_checkpoint_kept(interrupted, made, lose) -> None:
    settings, folder = interrupted
    lose(folder / "metrics.jsonl")
    assert train(settings).before["step"] == 0
    assert same_as_whole(made) and steps_of(folder) == steps_of(made / "whole")


def test_no_later_evaluation_is_called_the_one_before(interrupted) -> None:
    settings, folder = interrupted
    (folder / "metrics.jsonl").unlink()
    forget_hashes(folder)
    summary = train(settings)
    assert summary.before == {} and summary.after["step"] == 8
    assert "before" not in summary.lines()[1] and "after" in summary.lines()[1]


def test_metrics_deleted_while_the_run_goes_on_are_written_again(interrupted, made, monkeypatch) -> None:
    settings, folder = interrupted
    real = loop.train_step

    def deletes(*arguments) -> Tensor:
        if arguments[-2].step == 4:
            (folder / "metrics.jsonl").unlink()
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", deletes)
    assert train(settings).before["step"] == 0
    assert steps_of(folder) == steps_of(made / "whole")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "model cut": lambda folder: (folder / "model/model.safetensors").write_bytes(weights_of(folder)[:5000]),
    "a bit of the model": lambda folder: flip(folder / "model/model.safetensors"),
    "a bit of its tokenizer": lambda folder: flip(folder / "model/tokenizer.json"),
    "no model": lambda folder: shutil.rmtree(folder / "model"),
    "no weights": lambda folder: (folder / "model/model.safetensors").unlink(),
    "no config.json": lambda folder: (folder / "model/config.json").unlink(),
    "summary cut": lambda folder: (folder / "summary.json").write_text("{"),
    "a bit of the summary": lambda folder: flip(folder / "summary.json", 0.5),
    "another summary": lambda folder: (folder / "summary.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_finished_run_makes_what_was_damaged_again_from_its_checkpoint(whole, made, damage, capsys) -> None:
    settings, folder = whole
    damage(folder)
    train(settings)
    said = capsys.readouterr().out
    assert "is damaged or gone: it is made again from the last checkpoint" in said and "nothing to do" not in said
    assert same_as_whole(made)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_finished_run_without_checkpoints_says_what_is_damaged(whole, damage) -> None:
    settings, folder = whole
    shutil.rmtree(folder / "checkpoints")
    damage(folder)
    with pytest.raises(
        ValueError, match=r"is finished, but .*(model|summary\.json) is damaged or gone and there is no"
    ):
        train(settings)


def test_a_model_of_an_earlier_version_is_whole_where_its_weights_are(whole, made, capsys) -> None:
    settings, folder = whole
    (folder / "model/checksums.json").unlink()
    train(settings)
    assert "nothing to do" in capsys.readouterr().out
    (folder / "model/model.safetensors").write_bytes(weights_of(folder)[:-1])
    train(settings)
    assert "is made again" in capsys.readouterr().out and same_as_whole(made)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_flipped_bit_of_the_record_of_a_run_is_found(interrupted, place) -> None:
    settings, folder = interrupted
    flip(folder / "run.json", place)
    with pytest.raises(ValueError, match=r"is not a run of iwpo_fast, or its run\.json is damaged"):
        train(settings)
