"""What types of annotators cannot be trained from, in one sentence each, before anything is computed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from annotator_votes import write_votes

from iwpo_fast.config import RunConfig, TypesConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.training import train

SETTINGS = {
    "--model.lora null": "types trains an adapter for each type, and model.lora is null",
    "--model.lora.modules_to_save [lm_head]": "model.lora.modules_to_save is ['lm_head'] and types is set",
    "--objective.name simpo": "objective.name is simpo and types is set, but annotators are told apart by",
    "--objective.label_smoothing 0.1": "objective.label_smoothing is 0.1 and types is set",
    "--objective.divergence js": "objective.divergence is js and types is set",
    "--reference_sync.steps 2 --reference_sync.alpha 1": "types is set, but there is no one policy that the",
    "--model.compile true": "model.compile is True and types is set, but layers would be compiled again",
    "--shard_over 2": "shard_over is 2 and types is set, but every process holds all adapters whole",
    "--log.samples 2": "log.samples is 2 and types is set, but there is no one policy that could answer",
    "--checkpoint.best eval_loss --log.eval_every 2": "checkpoint.best is eval_loss and types is set",
    "--push_to_hub me/model": "push_to_hub is me/model and types is set",
    "--data.eval_fraction 0": "types.votes is held_out and nothing is held out: set data.eval_fraction",
    "--types.start nowhere.json": "types.start is nowhere.json, and no file is there",
    "--types.count 1 --types.rounds 3": "types.rounds is 3 and types.count is 1, which leaves nothing to tell",
    "--types.count 1 --types.mixture_tokens 9": "types.mixture_tokens is 9 and types.count is 1, and there is nothing",
    "--types.mixture_prompts 0 --types.mixture_tokens 9": "types.mixture_tokens is 9 and types.mixture_prompts is 0",
    "--types.mixture_tokens 48": "types.mixture_tokens is 48 and data.max_length is 48, which leaves no token",
    "--types.regret_weights [1,2,3]": "types.regret_weights has 3 numbers and types.count is 2",
    "--types.regret_weights [1,0]": "types.regret_weights",
    "--types.count 0": "types.count is 0",
}


@pytest.mark.slow
@pytest.mark.parametrize("flags", SETTINGS)
def test_settings_that_cannot_be(config, tmp_path, capsys, flags) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    from iwpo_fast.cli import main

    recipe = tmp_path / "recipe.yaml"
    settings = config(types=TypesConfig(mixture_tokens=3))
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(settings)))))
    assert main(["train", "--config", str(recipe), *flags.split()]) == 2
    said = capsys.readouterr().err
    assert SETTINGS[flags] in said and said.count("\n") == 1


def test_a_setting_of_several_policies_is_refused_from_python_too(config) -> None:
    with pytest.raises(ValueError, match=r"model\.lora is null"):
        check_config(config(model=replace(config().model, lora=None)))


def refused(config, path: Path) -> str:
    with pytest.raises(ValueError) as error:
        train(replace(config, data=replace(config.data, path=str(path))))
    return str(error.value)


def rows_of(path: Path) -> list[dict]:
    return list(map(json.loads, path.read_text().splitlines()))


def rewritten(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_without_annotators(config, votes) -> None:
    rows = [{name: value for name, value in row.items() if name != "annotator"} for row in rows_of(votes)]
    said = refused(config(), rewritten(votes, rows))
    assert said.startswith("types is set, and no row of votes.jsonl names its annotator") and "worker_id" in said


def test_a_row_without_one(config, votes) -> None:
    rows = rows_of(votes)
    for place in (4, 7):
        rows[place]["annotator"] = None
    settings = config(
        data=replace(config().data, eval_fraction=0.0), types=TypesConfig(votes="trained", mixture_prompts=0)
    )
    said = refused(settings, rewritten(votes, rows))
    assert said.startswith("In votes.jsonl, row 5 (the first of 2) has no annotator that is a text or an integer")


def test_labels_that_may_be_wrong(config, tmp_path) -> None:
    path = write_votes(tmp_path / "soft.jsonl", label_smoothing=[0.1] * 36)
    assert refused(config(), path).startswith("soft.jsonl has the column label_smoothing and types is set")


def test_a_folder_of_a_run_without_types(config, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a run without types: choose another output_dir"):
        train(config())


def test_the_pipeline_has_no_types(config) -> None:
    from iwpo_fast.pipeline import run

    both = RunConfig(**vars(config()))
    with pytest.raises(ValueError, match="types is set, but the stages of iwpo run learn from all annotators together"):
        run(both)
