"""Where paths lead that settings give, or leave out."""

from __future__ import annotations

from pathlib import Path

import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import cache_folder
from iwpo_fast.doctor import command
from iwpo_fast.paths import cache_of_user, looks_local


@pytest.mark.parametrize(("home", "expected"), [("/caches", "/caches"), ("caches", None), ("", None), (None, None)])
def test_the_cache_is_where_the_user_keeps_caches_if_that_is_absolute(home, expected, monkeypatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", home)
    assert cache_of_user() == Path(expected or Path.home() / ".cache", "iwpo_fast")
    assert cache_folder(DataConfig(path="x")) == cache_of_user()
    assert cache_folder(DataConfig(path="x", cache_dir="mine")) == Path("mine")
    assert command._environment()[-1].startswith(f"{cache_of_user()} has room for ")


@pytest.mark.parametrize(
    ("path", "local"),
    [("./model", True), ("/a", True), ("~/a", True), ("a/b/c", True), ("owner/name", False), ("gpt2", False)],
)
def test_what_can_be_an_id_of_the_hub_is_not_taken_for_a_path(path, local) -> None:
    assert looks_local(path) == local
