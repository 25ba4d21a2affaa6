from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.recipe_shelf import SHELF, command_of, recipes


def test_every_recipe_is_listed_with_its_command_and_what_it_says(capsys) -> None:
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert set(recipes()) == {path.stem for path in SHELF.iterdir()} and len(recipes()) >= 4
    for name, path in recipes().items():
        assert f"{name}, for iwpo {command_of(path)}\n  {path.read_text().splitlines()[0].removeprefix('# ')}" in said
    assert "iwpo train --config hh_tiny.yaml" in said and "recipes/" not in said


def test_on_a_terminal_all_lines_fit_it_and_say_the_same(capsys, monkeypatch) -> None:
    assert main(["recipes"]) == 0
    piped = capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, piped.splitlines())) > 100 and max(map(len, shown.splitlines())) <= 80
    assert shown.replace("\\\n", " ").split() == piped.replace("\\\n", " ").split()
    broken = [line for line in shown.splitlines() if line.endswith(" \\")]
    assert broken and not any(line.split()[-2].startswith("--") for line in broken), "a setting is torn from its value"


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes())
def test_a_copy_is_the_recipe_and_its_command_takes_it(name, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "--copy", name]) == 0
    copy = tmp_path / f"{name}.yaml"
    assert copy.read_bytes() == (SHELF / copy.name).read_bytes()
    said = capsys.readouterr().out
    command = said.strip().rpartition("iwpo ")[2].split()
    with pytest.raises(SystemExit) as stop:
        main([*command, "--data.path", "x", "--print_config"])
    assert stop.value.code == 0


@pytest.mark.slow
def test_a_copy_goes_where_it_is_told(tmp_path) -> None:
    assert main(["recipes", "--copy", "hh_tiny.yaml", "--to", str(tmp_path / "new" / "mine.yaml")]) == 0
    assert (tmp_path / "new" / "mine.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--copy", "hh_tny"], "there is no recipe hh_tny: did you mean hh_tiny? choose one of "),
        (["--copy", "gpo"], "there is no recipe gpo: did you mean gpo_ultrafeedback? choose one of "),
        (["--copy", "demo", "--to", "mine.yaml"], "mine.yaml exists, and what is in it would be lost"),
        (["--to", "other.yaml"], "to is other.yaml but no recipe is to be copied: name one with --copy."),
    ],
)
def test_a_mistake_is_one_sentence_and_loses_nothing(flags, sentence, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed: 1\n")
    assert main(["recipes", *flags]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert Path("mine.yaml").read_text() == "seed: 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
