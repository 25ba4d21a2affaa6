"""A kill at any moment, then the same command again, ends in the same bytes as a run that was left alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from killed_runs import kill_during_a_save, kill_during_training, run_killed
from safetensors.torch import load_file
from torch import Tensor
from toy_pairs import write_pairs

from iwpo_fast import optimisation
from iwpo_fast.config import LogConfig, LoraConfig, ModelConfig, TinyConfig, TrainConfig
from iwpo_fast.models import Policy
from iwpo_fast.training import loop, train
from iwpo_fast.training.run_folder import RunFolder

TINY = TinyConfig(vocab_size=320, hidden_size=32, layers=2, heads=2)


def losses(config: TrainConfig) -> list[tuple[int, float]]:
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [(m["step"], m["loss"]) for m in map(json.loads, lines) if "loss" in m]


def model_bytes(config: TrainConfig) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (Path(config.output_dir) / "model").glob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "every"),
    [(kill_during_training, 1), (kill_during_training, 4), (kill_during_a_save, 1)],
    ids=["training", "training between two log lines", "save"],
)
def test_a_killed_run_resumes_to_bitwise_the_losses_of_an_uninterrupted_one(config, tmp_path, sabotage, every) -> None:
    # Dropout draws random numbers in every step, so their state must survive too.
    model = ModelConfig(tiny=TINY, lora=LoraConfig(rank=4, dropout=0.1))
    log = LogConfig(every=every)
    whole = config(model=model, log=log, output_dir=str(tmp_path / "whole"))
    killed = config(model=model, log=log, output_dir=str(tmp_path / "killed"))
    train(whole)
    run_killed(killed, sabotage, tmp_path)
    assert not (tmp_path / "killed" / "model").exists()
    train(killed)
    assert losses(killed) == losses(whole)
    # A line after the first step, every so many steps, and at each checkpoint.
    assert [step for step, _ in losses(whole)] == {1: list(range(1, 9)), 4: [1, 3, 4, 6, 8]}[every]
    assert model_bytes(killed) == model_bytes(whole) != {}
    leftovers = [path.name for path in (tmp_path / "killed").rglob(".*")]
    assert leftovers == []


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_full_fine_tuning_resumes_bitwise_from_a_checkpoint(config, tmp_path, optimizer) -> None:
    if optimizer == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    optim = dataclasses.replace(config().optim, name=optimizer)
    whole = config(optim=optim, output_dir=str(tmp_path / "whole"))
    part = config(optim=optim, output_dir=str(tmp_path / "part"))
    train(whole)
    run_killed(part, kill_during_training, tmp_path)
    train(part)
    assert losses(part) == losses(whole)
    assert model_bytes(part) == model_bytes(whole) != {}


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(config, capsys) -> None:
    settings = config()
    first = train(settings)
    weights = model_bytes(settings)
    assert train(settings) == first
    assert "nothing to do" in capsys.readouterr().out
    assert model_bytes(settings) == weights


@pytest.mark.slow
def test_another_configuration_does_not_resume(config) -> None:
    train(config())
    other = config()
    other.optim.lr = 5e-4
    with pytest.raises(ValueError, match=r"another configuration, optim\.lr=0\.0005 \(was 0\.001\)"):
        train(other)


@pytest.mark.parametrize(
    ("part", "path", "sentence"),
    [
        ("data", "nowhere.jsonl", "data.path nowhere.jsonl is not there"),
        ("model", "./nomodel", "model.path ./nomodel does not exist"),
    ],
)
def test_a_path_that_does_not_exist_is_named_before_another_configuration(config, part, path, sentence) -> None:
    before = config()
    folder = RunFolder(Path(before.output_dir))
    folder.open(before, {"training data": "some"})
    folder.summary.touch()
    assert RunFolder.check(before) == folder
    with pytest.raises(ValueError, match=sentence):
        RunFolder.check(dataclasses.replace(before, **{part: dataclasses.replace(getattr(before, part), path=path)}))


@pytest.mark.slow
def test_changed_data_does_not_resume(config, pairs_file) -> None:
    settings = config()
    train(settings)
    (Path(settings.output_dir) / "summary.json").unlink()
    lines = pairs_file.read_text().splitlines(keepends=True)
    pairs_file.write_text("".join(lines[:-5]))
    with pytest.raises(ValueError, match="the training data has changed since the run"):
        train(settings)


@pytest.mark.slow
def test_how_much_is_logged_and_kept_may_change_on_resume(config) -> None:
    settings = config()
    train(settings)
    settings.log.every = 4
    settings.checkpoint.keep = 1
    assert train(settings).steps == 8


@pytest.mark.slow
def test_changed_weights_do_not_resume(config, tmp_path) -> None:
    data = write_pairs(tmp_path / "weighted.jsonl", rows=40, weight=[1.0] * 40)
    settings = config()
    settings.data.path = str(data)
    train(settings)
    (Path(settings.output_dir) / "summary.json").unlink()
    write_pairs(data, rows=40, weight=[1.0] * 39 + [2.0])
    with pytest.raises(ValueError, match="the training data has changed since the run"):
        train(settings)


@pytest.mark.slow
def test_a_run_without_a_checkpoint_may_begin_anew_with_another_configuration(config, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config())
    other = config()
    other.optim.lr = 5e-4
    train(other)
    assert [step for step, _ in losses(other)] == list(range(1, 9))


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_stops_the_run_and_is_never_saved(config, monkeypatch) -> None:
    real, calls = optimisation.clip_gradients, []

    def poisoned(parameters, *arguments) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            next(iter(parameters)).grad[0] = float("nan")
        return real(parameters, *arguments)

    monkeypatch.setattr(optimisation, "clip_gradients", poisoned)
    settings = config(log=LogConfig(every=100))
    with pytest.raises(ValueError, match="at step 5 the norm of the gradient is not finite, with the pair"):
        train(settings)
    saved = sorted((Path(settings.output_dir) / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step-00000003"]
    for values in load_file(saved[0] / "weights.safetensors").values():
        assert values.isfinite().all()


@pytest.mark.slow
def test_a_finished_run_is_recognised_without_its_checkpoints(config) -> None:
    settings = config()
    first = train(settings)
    shutil.rmtree(Path(settings.output_dir) / "checkpoints")
    assert train(settings) == first
    settings.optim.lr = 5.0
    with pytest.raises(ValueError, match="another configuration"):
        train(settings)


@pytest.mark.parametrize("record", ["{", "{}", "[]", '{"x": 1}'])
def test_a_folder_with_somebody_elses_run_json_is_left_alone(config, record) -> None:
    settings = config()
    folder = Path(settings.output_dir)
    folder.mkdir()
    content = {"run.json": record, "ledger.json": "precious", "metrics.jsonl": "precious"}
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(ValueError, match="is not a run of iwpo_fast"):
        train(settings)
    assert {path.name: path.read_text() for path in folder.iterdir()} == content


@pytest.mark.slow
def test_changed_evaluation_data_does_not_resume(config, tmp_path) -> None:
    settings = config()
    settings.data.eval_fraction = 0.0
    settings.data.eval_path = str(write_pairs(tmp_path / "held_out.jsonl", rows=8, seed=1))
    train(settings)
    (Path(settings.output_dir) / "summary.json").unlink()
    write_pairs(tmp_path / "held_out.jsonl", rows=8, seed=2)
    with pytest.raises(ValueError, match="the evaluation data has changed since the run"):
        train(settings)


@pytest.mark.slow
def test_a_changed_base_model_does_not_resume(config, tmp_path, monkeypatch) -> None:
    settings = config(model=ModelConfig(tiny=TINY, lora=LoraConfig(rank=4)))
    train(settings)
    (Path(settings.output_dir) / "summary.json").unlink()
    monkeypatch.setattr(Policy, "fingerprint", "another")
    with pytest.raises(ValueError, match="the model has changed since the run"):
        train(settings)


@pytest.mark.slow
def test_a_second_process_may_not_run_in_the_same_folder(config, tmp_path) -> None:
    settings = config()
    holder = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    Path(settings.output_dir).mkdir()
    lock = Path(settings.output_dir) / "run.lock"
    command = [sys.executable, "-c", holder, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is running in"):
            train(settings)
        process.kill()
    assert train(settings).steps == 8


@pytest.mark.slow
def test_what_a_kill_in_the_last_save_left_is_removed(config) -> None:
    settings = config()
    train(settings)
    folder = Path(settings.output_dir)
    (folder / "summary.json").unlink()
    (folder / ".model.1234.tmp").mkdir()
    train(settings)
    assert not (folder / ".model.1234.tmp").exists()


@pytest.mark.slow
def test_an_older_checkpoint_that_a_kill_behind_the_last_save_left_is_removed(config) -> None:
    settings = config()
    train(settings)
    folder = Path(settings.output_dir)
    before = sorted(path.name for path in (folder / "checkpoints").iterdir())
    shutil.copytree(folder / "checkpoints" / before[0], folder / "checkpoints" / "step-00000001")
    (folder / "summary.json").unlink()
    train(settings)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == before


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(config) -> None:
    settings = config()
    train(settings)
    folder = Path(settings.output_dir)
    (folder / "summary.json").unlink()
    weights = folder / "checkpoints" / "step-00000008" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="step-00000008 is damaged: delete this folder"):
        train(settings)
    shutil.rmtree(weights.parent)
    assert train(settings).steps == 8


@pytest.mark.slow
def test_what_a_kill_left_while_the_folder_was_opened_is_no_obstacle(config) -> None:
    settings = config()
    folder = Path(settings.output_dir)
    folder.mkdir()
    (folder / ".run.json.1234.tmp").write_text("{")
    train(settings)
    assert not (folder / ".run.json.1234.tmp").exists()
