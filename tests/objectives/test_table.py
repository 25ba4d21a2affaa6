"""docs/objectives.md is what the objectives say of themselves."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.objectives import OBJECTIVES, Mixture
from iwpo_fast.objectives.table import MARK, with_tables

DOCS = Path(__file__).parents[2] / "docs" / "objectives.md"
PAGE = with_tables(DOCS.read_text(encoding="utf-8"))


def cells(name: str) -> list[str]:
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{name}` | "))
    return re.split(r" (?<!\\)\| ", line.strip("| "))


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == PAGE, (
        "docs/objectives.md is stale: run `python -m iwpo_fast.objectives.table docs/objectives.md`"
    )


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_module_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "objectives.md"
    prose, mark, _ = PAGE.partition(MARK)
    page.write_text(prose + mark + "stale\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["table", str(page)])
    runpy.run_module("iwpo_fast.objectives.table", run_name="__main__")
    assert page.read_text(encoding="utf-8") == PAGE


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_has_one_row_with_formula_link_and_parameters(name: str) -> None:
    objective = OBJECTIVES[name]
    _, formula, paper, reads, parameters, *_ = cells(name)
    assert formula == f"`{objective.formula}`".replace("|", r"\|")
    assert f"https://arxiv.org/abs/{objective.arxiv}" in paper or not objective.arxiv
    assert ("reference" in reads) == objective.uses_reference
    assert all(f"`{parameter}` " in parameters for parameter in objective.parameters)


def test_the_page_names_the_objectives_that_train_on_one_completion() -> None:
    section = PAGE.partition("## Rows of one completion")[2].partition("\n## ")[0]
    named = [name for name in OBJECTIVES if f"`{name}`" in section]
    assert named == [name for name, objective in OBJECTIVES.items() if objective.unpaired] != []


def test_the_page_names_the_objectives_that_take_samples_of_the_reference() -> None:
    section = PAGE.partition("## Samples of the reference")[2].partition("\n## ")[0]
    named = [name for name in OBJECTIVES if f"`{name}`" in section]
    assert named == [name for name, objective in OBJECTIVES.items() if objective.samples] != []


def test_rows_have_as_many_cells_as_the_header() -> None:
    tables = [line for line in PAGE.splitlines() if line.startswith("|")]
    counts = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert counts.count(10) >= len(OBJECTIVES)
    assert set(counts) == {3, 10}


def test_recipes_on_the_page_describe_mixtures() -> None:
    pytest.importorskip("jsonargparse", reason="recipes are read by it")
    from iwpo_fast.recipe import load_recipe

    recipes = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    mixtures = [Mixture.of(ObjectiveConfig(**load_recipe(recipe)["objective"])) for recipe in recipes]
    assert [list(mixture.parameters) for mixture in mixtures] == [
        ["sigmoid"],
        ["simpo"],
        ["sigmoid", "bco", "sft"],
        ["sigmoid", "bco", "sft"],
    ]


def test_arxiv_ids_are_well_formed() -> None:
    ids = [objective.arxiv for objective in OBJECTIVES.values() if objective.arxiv]
    assert all(re.fullmatch(r"2[0-9](0[1-9]|1[0-2])\.\d{5}", arxiv) for arxiv in ids)
