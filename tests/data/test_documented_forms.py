"""The page `docs/data.md` against the library: every row that it shows is read as it says, or refused so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from documented_forms import FORMS, Form
from documented_page import with_parts
from documented_schemas import SCHEMAS

from iwpo_fast.config import MixedConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.columns import COLUMNS, SCORES
from iwpo_fast.limits import hints_of

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
ALL = {form.title: form for form in (*FORMS, *SCHEMAS)}


@pytest.mark.parametrize("title", ALL)
def test_each_row_of_the_page_is_read_as_it_says(title, write) -> None:
    form: Form = ALL[title]
    config = write([form.row, form.row], **form.settings)
    if isinstance(form.texts, str):
        with pytest.raises(ValueError, match=re.escape(form.texts)) as raised:
            read_rows(config)
        assert str(raised.value).startswith("In pairs.jsonl, row 1 has ")
        return
    rows = read_rows(config, votes=form.votes is not None)[0]
    assert (rows.prompt[0], rows.chosen[0], rows.rejected[0]) == form.texts
    assert tuple(rows.unread) == form.unread
    sides = None if form.label is None else [[form.label, not form.label]] * 2
    assert (None if rows.present is None else rows.present.tolist()) == sides
    first = [rows.columns[name][0] for name in SCORES if name in rows.columns]
    if form.scores is not None:
        assert tuple(score.item() for score in first) == form.scores
    if form.votes is not None:
        assert tuple(votes[~np.isnan(votes)].tolist() for votes in first) == form.votes


def test_the_page_is_what_the_tests_generate() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_parts(page), "make docs writes it anew"


def test_no_schema_is_there_twice_and_there_are_thirty() -> None:
    assert len(ALL) == len(FORMS) + len(SCHEMAS)
    assert len(SCHEMAS) >= 30


def test_the_page_lists_every_column_and_every_setting_of_a_mix() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in (*COLUMNS, *hints_of(MixedConfig)) if f"`{name}`" not in page] == []
