"""The tables on paper are those of the documentation, for models of the known sizes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sharded_memory import MODELS, main

DOCS = Path(__file__).parents[2] / "docs" / "distributed.md"


def test_the_documentation_has_the_tables_that_are_printed(capsys):
    main()
    printed = capsys.readouterr().out.strip().splitlines()
    assert len(printed) == 14
    documented = DOCS.read_text(encoding="utf-8").splitlines()
    assert [line for line in printed if line not in documented] == []


def test_the_models_have_the_parameters_of_llama_3_1():
    assert [model.parameters for model in MODELS] == [8_030_261_248, 70_553_706_496]


def test_state_is_split_and_what_passes_is_not():
    for model in MODELS:
        for lora in (False, True):
            assert model.state(8, lora) == 8 * model.state(64, lora)
            assert model.total(8, lora) - model.total(64, lora) == model.state(8, lora) - model.state(64, lora)
