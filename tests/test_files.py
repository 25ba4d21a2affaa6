import pytest

from iwpo_fast.files import remove_leftovers, written_aside


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "value.txt"
    path.write_text("old")
    with written_aside(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_writing_keeps_the_old_content(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "kept").write_text("old")
    with pytest.raises(OSError, match="disk"), written_aside(path) as aside:
        aside.mkdir()
        (aside / "part").write_text("new")
        raise OSError("disk full")
    assert [file.name for file in path.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_a_folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").write_text("old")
    with written_aside(path) as aside:
        aside.mkdir()
        (aside / "b").write_text("new")
    assert [file.name for file in path.iterdir()] == ["b"]


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".step-1.abc.tmp").mkdir()
    (tmp_path / ".x.tmp").write_text("")
    (tmp_path / "step-1").mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
