"""Files of rows, spoilt and damaged: the untouched rows are read as ever, or one sentence says what is wrong."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from effort import tries
from hypothesis import given
from hypothesis import strategies as st
from row_mutations import DAMAGES, KINDS, READ, Spoilt, spoilt_rows, write
from sentences import in_time, is_sentence

from iwpo_fast.config import DataConfig
from iwpo_fast.data import Rows, read_rows, tokenise
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.preview import look_at, preview_lines, typical
from iwpo_fast.terminal import ACTS, JOINERS

TOKENIZER = train_tokenizer(["Is it? Yes. No. Be brief."] * 4, 300)
Texts = dict[int, list[Any]]


def texts_of(parts: tuple[Rows, Rows | None]) -> Texts:
    """By number of the row, the texts of its pairs, held out or not."""
    found: Texts = {}
    for rows in parts:
        for i, number in enumerate(rows.numbers.tolist() if rows is not None else ()):
            assert rows is not None
            found.setdefault(number, []).append((rows.prompt[i], rows.chosen[i], rows.rejected[i]))
    return found


def refused(error: BaseException, path: Path) -> None:
    assert is_sentence(error), f"{type(error).__name__}: {error!r}"
    assert path.name in str(error) or "data." in str(error), str(error)


def attempt(path: Path, settings: dict[str, Any], *, votes: bool = False) -> tuple[Rows, Rows | None] | None:
    """What is read from a file; None where one sentence refuses it. The file is as before."""
    before = path.read_bytes()
    try:
        with in_time():
            return read_rows(DataConfig(path=str(path), **settings), votes=votes)
    except Exception as error:
        refused(error, path)
        return None
    finally:
        assert path.read_bytes() == before


def as_tokens(rows: Rows, settings: dict[str, Any], path: Path) -> None:
    """The rows become tokens and lines for a terminal, or a sentence refuses them."""
    config = DataConfig(path=str(path), cache_dir=str(path.parent / "cache"), **settings)
    try:
        with in_time():
            pairs, ledger = tokenise(rows.without_candidates(), TOKENIZER, config)
            looks = look_at(rows, typical(pairs), TOKENIZER, config)
    except Exception as error:
        refused(error, path)
        return
    for line in [*ledger.lines(), *preview_lines(looks, TOKENIZER, rows.source, colour=False)]:
        assert not acting(line), repr(line)


def acting(line: str) -> list[str]:
    """Characters on which a terminal acts."""
    import unicodedata

    return [one for one in line if unicodedata.category(one) in ACTS and one not in JOINERS]


@tries(short=40, long=1400)
@given(spoilt_rows(), st.sampled_from(sorted(KINDS)))
def test_one_spoilt_row_changes_no_other(spoilt: Spoilt, kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        healthy = write(Path(name), kind, spoilt.good)
        assert healthy is not None
        expected = attempt(healthy, spoilt.settings, votes=spoilt.votes)
        path = write(Path(name), kind, spoilt.bad, "spoilt")
        found = None if path is None else attempt(path, spoilt.settings, votes=spoilt.votes)
        if found is None or path is None:
            return
        if expected is not None and spoilt.where is not None and _leaves_others_alone(spoilt, kind):
            _check_others(texts_of(expected), texts_of(found), spoilt.where + 1)
        as_tokens(found[0], spoilt.settings, path)


def _leaves_others_alone(spoilt: Spoilt, kind: str) -> bool:
    """In tables a new column is one of all rows, and says something of them, such as that they are conversations."""
    if spoilt.settings.get("as_chat") == "auto":  # one conversation makes all rows such
        return False
    return kind.startswith(".json") or all(row.keys() == spoilt.good[0].keys() for row in spoilt.bad)


def _check_others(expected: Texts, found: Texts, number: int) -> None:
    for other in found.keys() & expected.keys() - {number}:
        assert found[other] == expected[other], f"row {other} is read in another way beside a spoilt row {number}"


@tries(short=20, long=600)
@given(
    st.sampled_from(sorted(READ)),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted(DAMAGES)),
    st.integers(0, 2**31),
)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(title: str, kind: str, damage: str, seed: int) -> None:
    form, chance = READ[title], random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        path = write(Path(name), kind, [form.row] * chance.randint(1, 40))
        assert path is not None
        data = path.read_bytes()
        path.write_bytes(DAMAGES[damage](data, chance.randrange(len(data)), chance.randrange(2**16)))
        found = attempt(path, form.settings, votes=form.votes is not None)
        if found is not None:
            as_tokens(found[0], form.settings, path)


@pytest.mark.parametrize("kind", [kind for kind in sorted(KINDS) if not kind.startswith((".csv", ".tsv"))])
def test_without_damage_every_form_is_read_as_it_is_documented(kind: str, tmp_path: Path) -> None:
    for number, form in enumerate(READ.values()):
        path = write(tmp_path, kind, [form.row, form.row], str(number))
        assert path is not None
        found = attempt(path, form.settings, votes=form.votes is not None)
        assert found is not None, form.title
        assert texts_of(found) == {1: [form.texts], 2: [form.texts]}
