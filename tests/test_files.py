import os

import pytest

from iwpo_fast.files import remove_leftovers, written_aside


def test_a_file_appears_only_when_it_is_complete(tmp_path) -> None:
    path = tmp_path / "value.txt"
    path.write_text("old")
    with written_aside(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_writing_keeps_the_old_content(tmp_path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "kept").write_text("old")
    with pytest.raises(OSError, match="disk"), written_aside(path) as aside:
        aside.mkdir()
        (aside / "part").write_text("new")
        raise OSError("disk full")
    assert [file.name for file in path.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_a_folder(tmp_path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").write_text("old")
    with written_aside(path) as aside:
        aside.mkdir()
        (aside / "b").write_text("new")
    assert [file.name for file in path.iterdir()] == ["b"]


def test_a_folder_that_a_kill_left_moved_away_comes_back(tmp_path, monkeypatch) -> None:
    path = tmp_path / "folder.d"
    path.mkdir()
    (path / "a").write_text("old")
    replace, calls = os.replace, []

    def killed_between(source, target) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed_between)
    with pytest.raises(KeyboardInterrupt), written_aside(path) as aside:
        aside.mkdir()
        (aside / "b").write_text("new")
    assert not path.exists()
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert [file.name for file in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_moved_away_and_replaced_goes(tmp_path) -> None:
    (tmp_path / ".folder.0123abcd.old.tmp").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_text("new")
    remove_leftovers(tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["folder", "folder/b"]


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path) -> None:
    (tmp_path / ".step-1.abc.tmp").mkdir()
    (tmp_path / ".x.tmp").write_text("")
    (tmp_path / "step-1").mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
