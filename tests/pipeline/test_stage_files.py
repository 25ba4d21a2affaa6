"""What the file of a stage defines, and what it does not."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from pipeline_cases import STAGES as NAMES
from pipeline_cases import toy_config

from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.stages import STAGES, Checks, Resumes, Stage, WorksOnAllRanks, stages_of

PROTOCOLS = (Stage, Checks, WorksOnAllRanks, Resumes)
KNOWN = {"run"} | {name for protocol in PROTOCOLS for name in vars(protocol) if not name.startswith("_")}


def functions_of(name: str) -> dict[str, inspect.Signature]:
    """Those that the file itself defines, except private ones."""
    module = STAGES[name]
    found = inspect.getmembers(module, inspect.isfunction)
    own = {key: function for key, function in found if function.__module__ == module.__name__}  # type: ignore[attr-defined]
    return {key: inspect.signature(function) for key, function in own.items() if not key.startswith("_")}


def test_stages_are_named_after_their_files_and_need_earlier_ones_alone() -> None:
    assert list(stages_of(toy_config())) == NAMES
    for position, (name, stage) in enumerate(STAGES.items()):
        assert Path(inspect.getfile(stage)).stem == name  # type: ignore[arg-type]
        assert set(stage.NEEDS) <= set(list(STAGES)[:position])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_no_public_function_that_the_pipeline_never_calls(name: str) -> None:
    functions = functions_of(name)
    assert {"settings", "outputs", "run"} <= functions.keys() <= KNOWN
    assert len(functions["run"].parameters) == (2 if "on_all_ranks" in functions else 1)
    for key, parameter in {
        "settings": "config",
        "check": "job",
        "resumes": "folder",
    }.items():
        assert key not in functions or list(functions[key].parameters) == [parameter]


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_a_stage_are_what_its_manifest_records(name: str, finished: Path, monkeypatch) -> None:
    monkeypatch.chdir(finished)
    recorded = json.loads(Path("run/manifest.json").read_text())["stages"][name]["settings"]
    assert json.loads(json.dumps(STAGES[name].settings(toy_config()))) == recorded


def test_no_property_of_a_job_loads_anything() -> None:
    assert {key for key, value in vars(PipelineJob).items() if isinstance(value, property)} == {"model"}
